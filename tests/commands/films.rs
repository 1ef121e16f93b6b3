// SPDX-License-Identifier: MPL-2.0

//! Films as input: their frames, times, levels and sound stay.

use std::fs;

use gst_video::VideoColorRange::{Range0_255, Range16_235};

use crate::place::{FAST, Frame, Place, assert_frames};

/// Runs a clip through, and checks that all but the picture stays.
fn assert_kept(output: &str, width: u32, height: u32) {
    let place = Place::new();
    place.make_clip("clip.mkv", width, height);
    let run = place.stylize(&["clip.mkv", output], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(place.files(), [place.path("clip.mkv"), place.path(output)]);

    let info = place.discover(output);
    let [video] = &info.video_streams()[..] else { panic!("not one video stream") };
    assert_eq!((video.width(), video.height()), (width, height));
    assert_eq!(video.framerate(), gst::Fraction::new(10, 1));
    assert_eq!(video.par(), gst::Fraction::new(2, 1));
    assert_eq!(place.count_frames(output), 5);
    let [audio] = &info.audio_streams()[..] else { panic!("not one audio stream") };
    assert_eq!((audio.sample_rate(), audio.channels()), (48000, 2));
    let duration = info.duration().unwrap();
    // Audio encoders add some milliseconds.
    assert!((500..600).contains(&duration.mseconds()), "{duration}");
}

#[test]
fn keeps_size_rate_and_sound_in_mp4() {
    assert_kept("painted.mp4", 64, 48);
}

#[test]
fn keeps_odd_sizes_in_mp4() {
    assert_kept("painted.mp4", 65, 49);
}

#[test]
fn keeps_size_rate_and_sound_in_webm() {
    assert_kept("painted.webm", 65, 48);
}

#[test]
fn keeps_size_rate_and_sound_in_mkv() {
    assert_kept("painted.mkv", 64, 48);
}

#[test]
fn paints_video_without_sound() {
    let place = Place::new();
    place.make("clip.mp4", "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! x264enc ! mp4mux");
    let run = place.stylize(&["clip.mp4", "painted.mp4"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(place.count_frames("painted.mp4"), 3);
    assert!(place.discover("painted.mp4").audio_streams().is_empty());
}

#[test]
fn paints_video_upright() {
    let place = Place::new();
    place.make("clip.mp4", "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! x264enc ! mp4mux");
    // What a telephone held upright writes: the matrix of the track header (tkhd) turns the frames by 90 degrees.
    let matrix: Vec<u8> =
        [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x4000_0000].into_iter().flat_map(i32::to_be_bytes).collect();
    let mut clip = fs::read(place.path("clip.mp4")).unwrap();
    let start = clip.windows(4).position(|window| window == b"tkhd").unwrap() + 44;
    clip[start..start + matrix.len()].copy_from_slice(&matrix);
    fs::write(place.path("clip.mp4"), clip).unwrap();

    let run = place.stylize(&["clip.mp4", "painted.mp4"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let info = place.discover("painted.mp4");
    let [video] = &info.video_streams()[..] else { panic!("not one video stream") };
    assert_eq!((video.width(), video.height()), (48, 64));
}

#[test]
fn keeps_the_first_size_when_it_changes() {
    let place = Place::new();
    let mut whole = Vec::new();
    for (name, size) in [("small.ts", "width=64,height=48"), ("large.ts", "width=128,height=72")] {
        let source = format!("videotestsrc num-buffers=5 ! video/x-raw,framerate=10/1,{size}");
        place.make(name, &format!("{source} ! x264enc ! mpegtsmux"));
        whole.extend(fs::read(place.path(name)).unwrap());
    }
    fs::write(place.path("clip.ts"), whole).unwrap();
    let run = place.stylize(&["clip.ts", "painted.mkv"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(place.count_frames("painted.mkv"), 10);
    let info = place.discover("painted.mkv");
    let [video] = &info.video_streams()[..] else { panic!("not one video stream") };
    assert_eq!((video.width(), video.height(), video.par()), (64, 48, gst::Fraction::new(1, 1)));
}

/// Frames that follow each other every 100 ms, each lighter than the one before.
fn ramp(count: u8) -> Vec<Frame> {
    (0..count).map(|index| Frame::new(100 * u64::from(index), 16 + 7 * index)).collect()
}

const LOSSLESS: &str = "x264enc quantizer=0 pass=quant";

#[test]
fn keeps_count_and_times_of_frames() {
    let place = Place::new();
    let frames = ramp(12);
    for (name, range, pipeline) in [
        ("b-frames.mp4", Range16_235, format!("{LOSSLESS} bframes=3 b-adapt=false ! mp4mux")),
        ("b-frames.mkv", Range16_235, format!("{LOSSLESS} bframes=3 b-adapt=false ! matroskamux")),
        ("b-frames.ts", Range16_235, format!("{LOSSLESS} bframes=3 b-adapt=false ! mpegtsmux")),
        ("pieces.mp4", Range16_235, format!("{LOSSLESS} ! mp4mux fragment-duration=500")),
        ("clip.mov", Range0_255, "jpegenc quality=100 ! qtmux".into()),
        ("clip.avi", Range0_255, "jpegenc quality=100 ! avimux".into()),
        ("clip.webm", Range16_235, "vp8enc min-quantizer=0 max-quantizer=0 ! webmmux".into()),
    ] {
        place.make_film(name, &frames, range, &pipeline);
        let said = place.pass_through(name, "painted.mkv");
        assert!(!said.contains("Warning"), "{name}: {said}");
        assert_frames(&place.frames("painted.mkv"), &frames);
    }
}

#[test]
fn keeps_long_waits_between_frames() {
    let place = Place::new();
    // As a recording of a screen has them.
    let mut frames = ramp(12);
    for (wait, frame) in frames[8..].iter_mut().enumerate() {
        frame.time += 5000 * (wait as u64 + 1);
    }
    place.make_film("screen.mkv", &frames, Range16_235, &format!("{LOSSLESS} ! matroskamux"));
    for output in ["painted.mp4", "painted.mkv", "painted.webm"] {
        place.pass_through("screen.mkv", output);
        assert_frames(&place.frames(output), &frames);
    }
}

/// Its sound begins at 0, and its first block is the frame at 128 ms. Made by ffmpeg 5.1:
///
///     ffmpeg -f lavfi -i testsrc2=s=64x48:r=10:d=1.5 -f lavfi -i sine=d=1.5:r=8000 -c:v libx264 -g 100 -bf 2 \
///         -pix_fmt yuv420p -crf 40 -c:a aac -b:a 16k whole.mkv
///     ffmpeg -ss 1 -i whole.mkv -c copy late_video.mkv
const LATE_VIDEO: &[u8] = include_bytes!("late_video.mkv");

#[test]
fn keeps_the_time_of_a_late_first_frame() {
    let place = Place::new();
    fs::write(place.path("late.mkv"), LATE_VIDEO).unwrap();
    place.pass_through("late.mkv", "painted.mp4");
    let times: Vec<_> = place.frames("painted.mp4").iter().map(|frame| frame.time).collect();
    let expected: Vec<_> = (0..15).map(|index| 128 + 100 * index).collect();
    assert_eq!(times, expected);
}

/// Where the contents of the boxes of a kind start in an MP4 file; see ISO/IEC 14496-12.
fn boxes(film: &[u8], kind: &[u8; 4]) -> Vec<usize> {
    film.windows(4).enumerate().filter(|(_, window)| window == kind).map(|(start, _)| start + 4).collect()
}

fn read(film: &[u8], place: usize) -> u32 {
    u32::from_be_bytes(film[place..place + 4].try_into().unwrap())
}

fn write(film: &mut [u8], place: usize, value: u32) {
    film[place..place + 4].copy_from_slice(&value.to_be_bytes());
}

/// Cuts an MP4 file as players and cutters do that copy the streams: the edit lists leave out what comes before `start`
/// and after `end`, in milliseconds.
fn cut(film: &mut [u8], start: u32, end: u32) {
    // All of version 0.
    let movie = boxes(film, b"mvhd")[0];
    let duration = (end - start) * read(film, movie + 12) / 1000;
    write(film, movie + 16, duration);
    for track in boxes(film, b"tkhd") {
        write(film, track + 20, duration);
    }
    let (media, edits) = (boxes(film, b"mdhd"), boxes(film, b"elst"));
    assert_eq!(media.len(), edits.len());
    for (media, edits) in media.into_iter().zip(edits) {
        let first = read(film, edits + 12) + start * read(film, media + 12) / 1000;
        write(film, edits + 8, duration);
        write(film, edits + 12, first);
    }
}

#[test]
fn paints_what_a_cut_film_shows() {
    let place = Place::new();
    let frames = ramp(30);
    for (start, end, encoder, muxer) in [
        // Some groups of pictures, and one.
        (7, 27, "key-int-max=5 bframes=0", "mp4mux"),
        (7, 27, "key-int-max=5 bframes=0", "qtmux"),
        (7, 27, "key-int-max=10 bframes=2 b-adapt=false", "mp4mux"),
        (18, 28, "key-int-max=30 bframes=0", "mp4mux"),
        (18, 28, "key-int-max=30 bframes=2 b-adapt=false", "mp4mux"),
    ] {
        place.make_film("cut.mp4", &frames, Range16_235, &format!("{LOSSLESS} {encoder} ! {muxer}"));
        let mut film = fs::read(place.path("cut.mp4")).unwrap();
        cut(&mut film, 100 * start, 100 * end);
        fs::write(place.path("cut.mp4"), film).unwrap();
        let mut shown = frames[start as usize..end as usize].to_vec();
        shown.iter_mut().for_each(|frame| frame.time -= u64::from(100 * start));
        let said = place.pass_through("cut.mp4", "painted.mp4");
        assert!(!said.contains("Warning"), "{said}");
        assert_frames(&place.frames("painted.mp4"), &shown);
    }
}

/// What makes a film of the frames given to it and of sound of so many seconds.
fn with_sound(encoder: &str, seconds: u32) -> String {
    format!(
        "{LOSSLESS} {encoder} ! queue ! mux. audiotestsrc num-buffers={} samplesperbuffer=800 \
         ! audio/x-raw,rate=8000,channels=1 ! avenc_aac ! queue ! mp4mux name=mux faststart=true",
        10 * seconds
    )
}

#[test]
fn keeps_the_sound_of_a_cut_film() {
    let place = Place::new();
    let frames = ramp(30);
    for (start, end) in [(7, 27), (18, 28)] {
        place.make_film("cut.mp4", &frames, Range16_235, &with_sound("key-int-max=5 bframes=0", 3));
        let mut film = fs::read(place.path("cut.mp4")).unwrap();
        cut(&mut film, 100 * start, 100 * end);
        fs::write(place.path("cut.mp4"), film).unwrap();
        let said = place.pass_through("cut.mp4", "painted.mp4");
        assert!(!said.contains("Warning"), "{said}");
        assert_eq!(place.count_frames("painted.mp4"), (end - start) as usize);
        let sound = place.length_of_sound("painted.mp4");
        // Encoders add up to two blocks of 128 ms at this rate.
        let expected = u64::from(100 * (end - start));
        assert!((expected - 10..expected + 256).contains(&sound), "{sound} ms, not {expected}");
    }
}

#[test]
fn keeps_the_levels_of_full_range() {
    let place = Place::new();
    let levels = [2, 10, 100, 128, 200, 251, 254];
    let frames: Vec<_> = (0..).zip(levels).map(|(index, level)| Frame::new(100 * index, level)).collect();
    for (name, muxer) in [("full_range.mp4", "mp4mux"), ("full_range.mov", "qtmux"), ("full_range.mkv", "matroskamux")]
    {
        place.make_film(name, &frames, Range0_255, &format!("{LOSSLESS} ! {muxer}"));
        place.pass_through(name, "painted.mp4");
        assert_frames(&place.frames("painted.mp4"), &frames);
    }
}

#[test]
fn warns_of_a_film_that_ends_early() {
    let place = Place::new();
    let frames = ramp(30);
    place.make_film("film.mp4", &frames, Range16_235, &format!("{LOSSLESS} ! mp4mux faststart=true"));
    let film = fs::read(place.path("film.mp4")).unwrap();
    fs::write(place.path("film.mp4"), &film[..film.len() * 8 / 10]).unwrap();
    let said = place.pass_through("film.mp4", "painted.mp4");
    assert!(said.contains("Warning: the video ends after"), "{said}");
    let found = place.frames("painted.mp4");
    assert!((5..25).contains(&found.len()), "{}", found.len());
    assert_frames(&found, &frames[..found.len()]);
    // Of a picture one frame is wanted.
    let said = place.pass_through("film.mp4", "painted.png");
    assert!(!said.contains("Warning"), "{said}");
}

#[test]
fn compares_each_stream_with_its_own_header() {
    let place = Place::new();
    place.make_film("film.mp4", &ramp(20), Range16_235, &with_sound("", 4));
    let whole = fs::read(place.path("film.mp4")).unwrap();
    let movie = boxes(&whole, b"mvhd")[0];
    let seconds = read(&whole, movie + 12);
    let is_video = |track: &usize| {
        let handler = boxes(&whole, b"hdlr").into_iter().find(|handler| handler > track).unwrap();
        &whole[handler + 8..handler + 12] == b"vide"
    };
    let (video, sound): (Vec<_>, Vec<_>) = boxes(&whole, b"tkhd").into_iter().partition(is_video);
    for (name, place_of_duration, warning) in [
        // The film is longer than what is painted if it has subtitles that are.
        ("subtitles.mp4", movie + 16, None),
        ("short_video.mp4", video[0] + 20, Some("Warning: the video ends after 2.0 s, but the header says 6.0 s")),
        ("short_sound.mp4", sound[0] + 20, Some("Warning: the sound ends after 4")),
    ] {
        let mut film = whole.clone();
        write(&mut film, place_of_duration, 6 * seconds);
        fs::write(place.path(name), film).unwrap();
        let said = place.pass_through(name, "painted.mkv");
        match warning {
            Some(warning) => assert!(said.contains(warning), "{name}: {said}"),
            None => assert!(!said.contains("Warning"), "{name}: {said}"),
        }
    }
}

#[test]
fn warns_of_a_matroska_film_that_ends_early() {
    let place = Place::new();
    let film = format!("{LOSSLESS} key-int-max=5 ! matroskamux min-cluster-duration=100000000");
    place.make_film("film.mkv", &ramp(30), Range16_235, &film);
    let film = fs::read(place.path("film.mkv")).unwrap();
    fs::write(place.path("film.mkv"), &film[..film.len() * 6 / 10]).unwrap();
    let said = place.pass_through("film.mkv", "painted.mp4");
    assert!(said.contains("Warning: the input ends after"), "{said}");
}

#[test]
fn subtitles_may_be_longer_than_a_matroska_film() {
    let place = Place::new();
    let text = "1\n00:00:00,000 --> 00:00:01,000\nOne\n\n2\n00:00:05,000 --> 00:00:08,000\nTwo\n\n";
    fs::write(place.path("film.srt"), text).unwrap();
    let subtitles = format!("filesrc location={} ! subparse ! queue", place.path("film.srt").display());
    let film = format!("{LOSSLESS} ! queue ! mux. {subtitles} ! matroskamux name=mux");
    place.make_film("film.mkv", &ramp(20), Range16_235, &film);
    let duration = place.discover("film.mkv").duration().unwrap();
    assert!(duration.seconds() >= 5, "the film is no test: {duration}");
    let said = place.pass_through("film.mkv", "painted.mp4");
    assert!(!said.contains("Warning"), "{said}");
}

#[test]
fn knows_a_film_by_its_content() {
    let place = Place::new();
    let frames = ramp(3);
    place.make_film("film.gif", &frames, Range16_235, &format!("{LOSSLESS} ! mp4mux"));
    place.pass_through("film.gif", "painted.mp4");
    assert_frames(&place.frames("painted.mp4"), &frames);
}

#[test]
fn deinterlaces() {
    let place = Place::new();
    let fields: Vec<_> = (0..12).map(|index| Frame::new(100 * u64::from(index), 20 * index)).collect();
    for top_field_first in [true, false] {
        let interlace = format!("interlace field-pattern=1:1 top-field-first={top_field_first}");
        place.make_film(
            "film.mkv",
            &fields,
            Range16_235,
            &format!("{interlace} ! {LOSSLESS} interlaced=true ! matroskamux"),
        );
        let comb = place.frames("film.mkv")[5].comb;
        assert!(comb >= 16, "the film is no test: {comb}");
        place.pass_through("film.mkv", "painted.mkv");
        let found = place.frames("painted.mkv");
        let combs: Vec<_> = found.iter().map(|frame| frame.comb).collect();
        assert!(combs.iter().all(|&comb| comb <= 2), "{combs:?}");
        // Two fields are one frame of the film, and the top field of them is shown.
        let shown = if top_field_first { 0 } else { 1 };
        let frames: Vec<_> = fields.chunks(2).map(|pair| Frame::new(pair[0].time, pair[shown].level)).collect();
        assert_frames(&found, &frames);
    }
}
