//! What the tests share.

pub(crate) mod daemon;
pub(crate) mod encoder;

use hone_daemon::random::{Purpose, Stream};

/// A CSV of rows that a tiny encoder can learn: a word of praise or of blame among words that say nothing.
pub(crate) fn toy_rows(rows: u64, seed: u64) -> String {
    const PRAISE: [&str; 4] = ["splendid", "wonderful", "warm", "lovely"];
    const BLAME: [&str; 4] = ["dreadful", "broken", "cold", "boring"];
    const FILLER: [&str; 8] = ["the", "a", "thing", "and", "truly", "it", "was", "with"];
    let stream = Stream::new(seed, Purpose::Split, 0, 0);
    let mut csv = String::from("text,label\n");
    for row in 0..rows {
        let pick =
            |place: u64, words: &[&'static str]| words[stream.word(16 * row + place) as usize % words.len()];
        let (label, words) = if row % 2 == 0 { ("positive", &PRAISE) } else { ("negative", &BLAME) };
        let before: Vec<&str> = (0..1 + row % 5).map(|place| pick(place, &FILLER)).collect();
        csv += &format!("{} {} {} {row},{label}\n", before.join(" "), pick(9, words), pick(10, &FILLER));
    }
    csv
}

/// Texts like those of [`toy_rows`], and their labels.
pub(crate) fn toy_texts() -> (Vec<&'static str>, Vec<&'static str>) {
    (
        vec![
            "a splendid thing",
            "the dreadful thing it was",
            "truly wonderful and",
            "it was boring with a thing",
        ],
        vec!["positive", "negative", "positive", "negative"],
    )
}
