// SPDX-License-Identifier: MPL-2.0

//! Films as input: decoded by GStreamer, with what it promises compared to what comes.

use std::{
    fs::File,
    io::Read,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gst::{glib, prelude::*};

use crate::{Result, movie_header::MovieHeader};

/// Makes the frames progressive and turns them upright, since few containers can tell a player to do so. The linear
/// method leaves no comb and keeps the times of all frames, which most others do not. From YUV directly to 8-bit RGB,
/// videoconvert is off by two levels or more; with 12 or 16 bits in between, by at most one.
pub const CONVERSION: &str = "videoconvert ! deinterlace fields=top method=linear \
    ! video/x-raw,interlace-mode=progressive \
    ! videoconvert ! video/x-raw,format={GBR_12LE,ARGB64} ! videoconvert dither=none \
    ! videoflip video-direction=auto";

/// How much of a film may be missing before a warning: durations are often rounded.
const TOLERANCE: gst::ClockTime = gst::ClockTime::from_mseconds(500);

/// A Matroska film that begins later than this is a piece of a longer one, and begins where its first block does.
const LATE_START: gst::ClockTime = gst::ClockTime::SECOND;

/// What files of pictures start with, after four bytes.
const HEIF_STARTS: [&[u8]; 4] = [b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"];

/// A file that GStreamer decodes.
pub struct Film {
    decoder: gst::Element,
    header: Option<Arc<MovieHeader>>,
    ends: Ends,
}

impl Film {
    pub fn open(path: &Path) -> Result<Self> {
        if is_heif(path)? {
            return Err("HEIC and AVIF pictures cannot be read: convert them to PNG or JPEG first".into());
        }
        let decoder = gst::ElementFactory::make("uridecodebin")
            .property("uri", glib::filename_to_uri(path, None)?)
            // Hardware decoders leave frames where videoconvert does not find them.
            .property("force-sw-decoders", true)
            .build()?;
        let header = MovieHeader::read(path).map(Arc::new);
        if let Some(header) = header.clone() {
            decoder.connect("source-setup", false, move |values| {
                let pad = values[1].get::<gst::Element>().ok().and_then(|source| source.static_pad("src"));
                if let Some(pad) = pad {
                    correct_header(&pad, header.clone());
                }
                None
            });
        }
        Ok(Self { decoder, header, ends: Ends::default() })
    }

    /// The element with the decoded streams.
    pub fn decoder(&self) -> &gst::Element {
        &self.decoder
    }

    /// How long the film is said to be.
    pub fn duration(&self) -> Option<gst::ClockTime> {
        let told = self.header.as_ref().and_then(|header| header.duration);
        told.or_else(|| self.decoder.query_duration())
    }

    /// How far the decoded streams came that are watched.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Whether a demuxer stopped without a stream. decodebin of GStreamer 1.22 loses an error that comes while it adds
    /// the demuxer, and waits for ever.
    pub fn has_given_up(&self) -> bool {
        let has_stopped = |element: &gst::Element| {
            let is_paused = |pad: &gst::Pad| pad.task_state() == gst::TaskState::Paused;
            element.num_src_pads() == 0 && element.sink_pads().iter().any(is_paused)
        };
        elements(&self.decoder).any(|element| is_demuxer(&element) && has_stopped(&element))
    }

    /// What to say if less came than the header of the film says.
    ///
    /// MP4 and QuickTime tell how long each track is. Matroska tells how long the longest is, which may be one that is
    /// not watched, such as subtitles: then nothing is said. In other containers durations are estimated.
    pub fn shortfall(&self) -> Option<String> {
        let ends = self.ends.lock();
        let last = |kind| ends.iter().filter(|end| end.kind == kind).map(|end| end.time).max();
        let (video, sound) = (last(Kind::Video), last(Kind::Sound));
        let promises = match &self.header {
            Some(header) => vec![("video", video, header.video), ("sound", sound, header.sound)],
            None => {
                let demuxer = elements(&self.decoder).find(|element| is_made_by(element, "matroskademux"))?;
                let is_all_watched = usize::from(demuxer.num_src_pads()) == ends.len();
                vec![("input", video.max(sound), self.duration().filter(|_| is_all_watched))]
            }
        };
        promises.into_iter().find_map(|(what, end, duration)| {
            let (end, duration) = (end?, duration?);
            (end + TOLERANCE < duration).then(|| {
                format!(
                    "the {what} ends after {:.1} s, but the header says {:.1} s: the file may be incomplete or damaged",
                    end.seconds_f64(),
                    duration.seconds_f64()
                )
            })
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Video,
    Sound,
}

/// The running times that the decoded streams reach.
#[derive(Clone, Default)]
pub struct Ends(Arc<Mutex<Vec<End>>>);

struct End {
    kind: Kind,
    time: gst::ClockTime,
}

impl Ends {
    fn lock(&self) -> MutexGuard<'_, Vec<End>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far the stream of a pad comes.
    pub fn watch(&self, pad: &gst::Pad, kind: Kind) {
        let ends = self.clone();
        let index = {
            let mut ends = ends.lock();
            ends.push(End { kind, time: gst::ClockTime::ZERO });
            ends.len() - 1
        };
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if let Some(time) = info.buffer().and_then(|buffer| running_end(pad, buffer)) {
                let end = &mut ends.lock()[index].time;
                *end = time.max(*end);
            }
            gst::PadProbeReturn::Ok
        });
    }
}

/// Whether a file is a picture of the family of HEIC and AVIF, in which GStreamer finds no film.
fn is_heif(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(12).read_to_end(&mut start)?;
    Ok(start.get(4..).is_some_and(|start| HEIF_STARTS.contains(&start)))
}

/// The elements that a decoder consists of at the moment.
fn elements(decoder: &gst::Element) -> impl Iterator<Item = gst::Element> {
    let bin = decoder.downcast_ref::<gst::Bin>();
    bin.into_iter().flat_map(|bin| bin.iterate_recurse().into_iter().flatten())
}

fn is_made_by(element: &gst::Element, factory: &str) -> bool {
    element.factory().is_some_and(|found| found.name() == factory)
}

fn is_demuxer(element: &gst::Element) -> bool {
    element.factory().is_some_and(|factory| factory.has_type(gst::ElementFactoryType::DEMUXER))
}

/// Corrects the header in what is pulled from a pad, as qtdemux reads files.
fn correct_header(pad: &gst::Pad, header: Arc<MovieHeader>) {
    pad.add_probe(gst::PadProbeType::PULL, move |_, info| {
        let offset = info.offset;
        if let Some(buffer) = info.buffer_mut()
            && let Ok(mut bytes) = buffer.make_mut().map_writable()
        {
            header.correct(offset, &mut bytes);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Lets a decoded stream have its own times from the first frame on.
///
/// matroskademux of GStreamer 1.22 begins with a segment from the first block that it meets, even if the other streams
/// begin earlier, and goes on with one from the earliest: all but the first block are then that much later.
pub fn correct_segment(decoder: &gst::Element, pad: &gst::Pad) {
    if !elements(decoder).any(|element| is_made_by(&element, "matroskademux")) {
        return;
    }
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| {
        if let Some(event) = info.event_mut()
            && let gst::EventView::Segment(old) = event.view()
            && let Some(segment) = old.segment().downcast_ref::<gst::ClockTime>()
            && segment.start().is_some_and(|start| start < LATE_START)
        {
            let mut segment = segment.clone();
            segment.set_start(gst::ClockTime::ZERO);
            segment.set_time(gst::ClockTime::ZERO);
            *event = gst::event::Segment::builder(&segment).seqnum(old.seqnum()).build();
        }
        gst::PadProbeReturn::Ok
    });
}

/// The running time at which a buffer ends.
fn running_end(pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<gst::ClockTime> {
    let event = pad.sticky_event::<gst::event::Segment>(0)?;
    let segment = event.segment().downcast_ref::<gst::ClockTime>()?;
    let start = segment.to_running_time(buffer.pts()?.max(segment.start()?))?;
    Some(start + buffer.duration().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{
        fs, thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_demuxer_without_a_stream_gives_up() {
        gst::init().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("cut_off.mp4");
        // As a recording that was cut off: its header would come last.
        fs::write(&path, b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x10mdat12345678").unwrap();
        let film = Film::open(&path).unwrap();
        assert!(!film.has_given_up());
        // With nobody to read the error, whether it is lost or not.
        let _ = film.decoder().set_state(gst::State::Paused);
        let start = Instant::now();
        while !film.has_given_up() {
            assert!(start.elapsed() < Duration::from_secs(60), "it waits for ever");
            thread::sleep(Duration::from_millis(10));
        }
        film.decoder().set_state(gst::State::Null).unwrap();
    }
}
