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
        let mut header = Self { duration: None, corrections: Vec::new() };
        let boxes: Vec<_> = boxes(&movie, 0..movie.len()).collect();
        let is_fragmented = boxes.iter().any(|found| &found.kind == b"mvex");
        for found in boxes {
            match &found.kind {
                b"mvhd" => {
                    let (duration, place) = movie_duration(&movie, found.content)?;
                    header.duration = duration;
                    if !is_fragmented {
                        // An edit list may leave out the beginning of the streams. By mistake qtdemux ends them when
                        // their own time, which counts what is left out, reaches the duration of the film. It does not
                        // when that is unknown, which is 0, and ends each stream where its edit list does.
                        let bytes = &[0; 8][..place.len()];
                        header.corrections.push(Correction { offset: offset + place.start as u64, bytes });
                    }
                }
                b"trak" => {
                    for colours in misread_colours(&movie, found.content) {
                        let offset = offset + colours as u64;
                        header.corrections.push(Correction { offset, bytes: b"free" });
                    }
                }
                _ => {}
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

/// The duration that the movie header (mvhd) tells, if it does, and where.
fn movie_duration(movie: &[u8], content: Range<usize>) -> Option<(Option<gst::ClockTime>, Range<usize>)> {
    let fields = movie.get(content.clone())?;
    let (timescale, length) = match *fields.first()? {
        0 => (12, 4),
        _ => (20, 8),
    };
    let place = timescale + 4..timescale + 4 + length;
    let digits = fields.get(place.clone())?;
    let units = digits.iter().fold(0, |units, &byte| units << 8 | u64::from(byte));
    let timescale = u32::from_be_bytes(*fields.get(timescale..)?.first_chunk()?);
    let is_known = units != 0 && timescale != 0 && digits.iter().any(|&byte| byte != u8::MAX);
    let duration = is_known
        .then(|| u128::from(units) * u128::from(gst::ClockTime::SECOND.nseconds()) / u128::from(timescale))
        .and_then(|duration| u64::try_from(duration).ok())
        .map(gst::ClockTime::from_nseconds);
    Some((duration, content.start + place.start..content.start + place.end))
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
