// SPDX-License-Identifier: MPL-2.0

//! What qtdemux of GStreamer 1.22 misreads in the header of an MP4 or QuickTime file, put right while it reads.
//!
//! The boxes are those of ISO/IEC 14496-12.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

/// The sample entries of H.264 and H.265.
const DESCRIBE_THEIR_COLOURS: [&[u8; 4]; 6] = [b"avc1", b"avc3", b"hvc1", b"hev1", b"dvh1", b"dvhe"];

/// What comes before the boxes within a sample description (stsd), and within a video sample entry.
const DESCRIPTION_FIELDS: usize = 8;
const VIDEO_ENTRY_FIELDS: usize = 78;

pub struct MovieHeader {
    /// How long the film is.
    pub duration: Option<gst::ClockTime>,
    /// How long its video and its sound are. Of several tracks, the shortest counts.
    pub video: Option<gst::ClockTime>,
    pub sound: Option<gst::ClockTime>,
    corrections: Vec<Correction>,
}

/// Bytes of the file to replace.
struct Correction {
    offset: u64,
    bytes: &'static [u8],
}

impl MovieHeader {
    /// Reads the header of a file; `None` if it has none, or one that is not understood.
    pub fn read(path: &Path) -> Option<Self> {
        let (offset, movie) = read_movie_box(path).ok()??;
        let boxes: Vec<_> = boxes(&movie, 0..movie.len()).collect();
        let find = |kind| boxes.iter().find(|found| &found.kind == kind);

        let fields = find(b"mvhd")?.content.clone();
        let duration = DurationField::read(&movie, fields, [16, 24])?;
        // The timescale stands before it.
        let timescale = u32::from_be_bytes(*movie[..duration.place.start].last_chunk()?);
        let mut header = Self { duration: duration.at(timescale), video: None, sound: None, corrections: Vec::new() };
        if find(b"mvex").is_none() {
            // An edit list may leave out the beginning of the streams. By mistake qtdemux ends them when their own
            // time, which counts what is left out, reaches the duration of the film. With a duration of 0 (unknown),
            // each stream ends where its edit list does.
            let bytes = &[0; 8][..duration.place.len()];
            header.corrections.push(Correction { offset: offset + duration.place.start as u64, bytes });
        }
        for track in boxes.iter().filter(|found| &found.kind == b"trak") {
            let shortest = match handler(&movie, track.content.clone()) {
                Some(b"vide") => Some(&mut header.video),
                Some(b"soun") => Some(&mut header.sound),
                _ => None,
            };
            if let Some(shortest) = shortest
                && let Some(duration) = track_duration(&movie, track.content.clone(), timescale)
            {
                *shortest = Some(shortest.map_or(duration, |shortest| shortest.min(duration)));
            }
            for colours in misread_colours(&movie, track.content.clone()) {
                header.corrections.push(Correction { offset: offset + colours as u64, bytes: b"free" });
            }
        }
        Some(header)
    }

    /// Corrects a part of the file, which starts at an offset.
    pub fn correct(&self, offset: u64, part: &mut [u8]) {
        for correction in &self.corrections {
            for (place, &byte) in (correction.offset..).zip(correction.bytes) {
                let within = place.checked_sub(offset).and_then(|place| usize::try_from(place).ok());
                if let Some(old) = within.and_then(|place| part.get_mut(place)) {
                    *old = byte;
                }
            }
        }
    }
}

struct FoundBox {
    kind: [u8; 4],
    /// Where the kind stands.
    kind_start: usize,
    content: Range<usize>,
}

/// The boxes of a part of the movie box. A damaged one ends them.
fn boxes(movie: &[u8], part: Range<usize>) -> impl Iterator<Item = FoundBox> {
    let mut start = part.start;
    std::iter::from_fn(move || {
        let head = movie.get(start..part.end)?;
        let (kind, head_length, length) = parse_head(head)?;
        let end = match length {
            0 => part.end,
            length => start.checked_add(usize::try_from(length).ok()?)?,
        };
        let content = start + head_length..end;
        if content.start > content.end || end > part.end {
            return None;
        }
        let kind_start = start + 4;
        start = end;
        Some(FoundBox { kind, kind_start, content })
    })
}

/// The kind of a box, how long its head is, and how long all of it, 0 if it reaches to the end.
fn parse_head(bytes: &[u8]) -> Option<([u8; 4], usize, u64)> {
    let kind = *bytes.get(4..)?.first_chunk()?;
    match u32::from_be_bytes(*bytes.first_chunk()?) {
        1 => Some((kind, 16, u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?))),
        length => Some((kind, 8, length.into())),
    }
}

/// The content of the movie box (moov), and where it starts.
fn read_movie_box(path: &Path) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut file = File::open(path)?;
    let file_length = file.metadata()?.len();
    let mut start: u64 = 0;
    loop {
        file.seek(SeekFrom::Start(start))?;
        let mut head = Vec::new();
        file.by_ref().take(16).read_to_end(&mut head)?;
        let Some((kind, head_length, length)) = parse_head(&head) else { return Ok(None) };
        let head_length = head_length as u64;
        let length = if length == 0 { file_length - start } else { length };
        if length < head_length {
            return Ok(None);
        }
        if &kind == b"moov" {
            let mut content = Vec::new();
            file.seek(SeekFrom::Start(start + head_length))?;
            file.take(length - head_length).read_to_end(&mut content)?;
            return Ok(Some((start + head_length, content)));
        }
        start = match start.checked_add(length) {
            Some(next) if next < file_length => next,
            _ => return Ok(None),
        };
    }
}

/// A duration in the header of the film or of a track.
struct DurationField {
    place: Range<usize>,
    units: u64,
}

impl DurationField {
    /// Reads it from a box of version 0 or 1, in which it stands at these places.
    fn read(movie: &[u8], content: Range<usize>, [short, long]: [usize; 2]) -> Option<Self> {
        let (start, length) = match *movie.get(content.clone())?.first()? {
            0 => (content.start + short, 4),
            _ => (content.start + long, 8),
        };
        let place = start..start + length;
        let digits = movie.get(place.clone()).filter(|_| place.end <= content.end)?;
        let is_unknown = digits.iter().all(|&byte| byte == u8::MAX);
        let units = digits.iter().fold(0, |units, &byte| units << 8 | u64::from(byte));
        Some(Self { place, units: if is_unknown { 0 } else { units } })
    }

    /// How long it is at so many units in a second, if that is known.
    fn at(&self, timescale: u32) -> Option<gst::ClockTime> {
        let nanoseconds = u128::from(self.units) * u128::from(gst::ClockTime::SECOND.nseconds());
        let duration = u64::try_from(nanoseconds.checked_div(timescale.into())?).ok()?;
        (duration > 0).then(|| gst::ClockTime::from_nseconds(duration))
    }
}

/// How long a track is, in the film, as its header (tkhd) says.
fn track_duration(movie: &[u8], track: Range<usize>, timescale: u32) -> Option<gst::ClockTime> {
    let header = boxes(movie, track).find(|found| &found.kind == b"tkhd")?;
    DurationField::read(movie, header.content, [20, 28])?.at(timescale)
}

/// What a track holds: `vide`, `soun` or others.
fn handler(movie: &[u8], track: Range<usize>) -> Option<&[u8; 4]> {
    let media = boxes(movie, track).find(|found| &found.kind == b"mdia")?;
    let handler = boxes(movie, media.content).find(|found| &found.kind == b"hdlr")?;
    movie[handler.content].get(8..)?.first_chunk()
}

/// Where the kinds of those colour boxes (colr) of a track stand that hide what the stream itself says.
///
/// By mistake qtdemux takes full range for limited range, and the QuickTime form of the box does not tell. Without a
/// box, what the stream says counts.
fn misread_colours(movie: &[u8], track: Range<usize>) -> Vec<usize> {
    let mut parts = vec![track];
    for kind in [b"mdia", b"minf", b"stbl", b"stsd"] {
        parts = parts
            .into_iter()
            .flat_map(|part| boxes(movie, part))
            .filter(|it| &it.kind == kind)
            .map(|it| it.content)
            .collect();
    }
    parts
        .into_iter()
        .flat_map(|part| boxes(movie, part.start + DESCRIPTION_FIELDS..part.end))
        .filter(|entry| DESCRIBE_THEIR_COLOURS.contains(&&entry.kind))
        .flat_map(|entry| boxes(movie, entry.content.start + VIDEO_ENTRY_FIELDS..entry.content.end))
        .filter(|found| &found.kind == b"colr")
        .filter(|found| match &movie[found.content.clone()] {
            [b'n', b'c', b'l', b'x', _, _, _, _, _, _, range, ..] => range & 0x80 != 0,
            [b'n', b'c', b'l', b'c', ..] => true,
            _ => false,
        })
        .map(|found| found.kind_start)
        .collect()
}
