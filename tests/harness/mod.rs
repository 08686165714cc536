//! What the tests share.

pub(crate) mod daemon;
pub(crate) mod encoder;
pub(crate) mod model;
pub(crate) mod process;
pub(crate) mod scrape;

use hone_base::random::{Purpose, Stream};

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

/// A CSV of rows with any number of labels: a word for each label that a row has, among words that say nothing.
pub(crate) fn toy_sets(rows: u64, seed: u64) -> String {
    const LABELS: [(&str, &str); 3] = [("praise", "warm"), ("blame", "broken"), ("food", "coffee")];
    const FILLER: [&str; 6] = ["the", "a", "thing", "and", "it", "with"];
    let stream = Stream::new(seed, Purpose::Split, 1, 0);
    let mut csv = String::from("text,labels\n");
    for row in 0..rows {
        let draw = |place: u64| stream.word(16 * row + place) as usize;
        let (mut words, mut labels) = (vec![FILLER[draw(0) % 6]], Vec::new());
        for (place, (label, word)) in (1..).zip(LABELS) {
            if draw(place) % 2 == 0 {
                words.push(word);
                labels.push(label);
            }
            words.push(FILLER[draw(6 + place) % 6]);
        }
        csv += &format!("{} {row},{}\n", words.join(" "), labels.join("|"));
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
