// SPDX-License-Identifier: MPL-2.0

fn main() {
    #[cfg(feature = "plugin")]
    gst_plugin_version_helper::info();
}
