// SPDX-License-Identifier: MPL-2.0

//! What the README and the presets say of the element's properties.

use std::sync::Once;

use gst::prelude::*;

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstneuralstyle::plugin_register_static().unwrap();
    });
}

#[test]
fn the_readme_names_every_property_with_its_default() {
    init();
    let readme = include_str!("../README.md");
    let table = readme.split_once("\n| property | default | |\n").unwrap().1.lines().skip(1);
    let rows = table.map_while(|line| line.strip_prefix("| `")).map(|line| {
        let (name, rest) = line.split_once("` | ").unwrap();
        (name, rest.split_once('|').unwrap().0.trim().trim_matches('`'))
    });
    let element = gst::ElementFactory::make("neuralstyle").build().unwrap();
    let own = |property: &gst::glib::ParamSpec| property.owner_type() == element.type_();
    let default = |property: &gst::glib::ParamSpec| {
        let default = property.default_value();
        if let Ok(text) = default.get::<Option<String>>() {
            text.unwrap_or_default()
        } else if let Ok(number) = default.get::<f64>() {
            number.to_string()
        } else if property.flags().contains(gst::glib::ParamFlags::WRITABLE) {
            default.serialize().unwrap().into()
        } else {
            String::new()
        }
    };
    let properties: Vec<_> = element.list_properties().into_iter().filter(own).collect();
    let mut expected: Vec<_> = properties.iter().map(|property| (property.name(), default(property))).collect();
    expected.sort_unstable();
    let mut named: Vec<_> = rows.map(|(name, default)| (name, default.to_owned())).collect();
    named.sort_unstable();
    assert_eq!(named, expected);
}

#[test]
fn presets_hold_properties_of_the_element() {
    init();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("presets");
    gst::Preset::set_app_dir(&folder).unwrap();
    let element = gst::ElementFactory::make("neuralstyle").build().unwrap();
    let preset = element.dynamic_cast_ref::<gst::Preset>().unwrap();
    assert!(preset.preset_names().len() >= 5);

    let file = std::fs::read_to_string(folder.join("GstNeuralStyle.prs")).unwrap();
    for name in preset.preset_names() {
        let (_, section) = file.split_once(&format!("\n[{name}]\n")).unwrap();
        let section = section.split("\n[").next().unwrap();
        let assignments: Vec<_> = section.lines().filter_map(|line| line.split_once('=')).collect();
        assert!(assignments.iter().any(|(key, text)| *key == "_meta/comment" && !text.is_empty()), "{name}");
        preset.load_preset(&name).unwrap();
        for (key, text) in assignments.into_iter().filter(|(key, _)| !key.starts_with("_meta/")) {
            let property = element.find_property(key).unwrap_or_else(|| panic!("{name}: {key}"));
            assert_eq!(property.owner_type(), element.type_(), "{name}: {key}");
            let wanted = gst::glib::Value::deserialize(text, property.value_type()).unwrap();
            assert_eq!(element.property_value(key).serialize().unwrap(), wanted.serialize().unwrap(), "{name}: {key}");
        }
    }
}
