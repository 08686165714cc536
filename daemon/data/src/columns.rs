//! Which column holds the text and which the label: as named, else guessed from names, else from values.

use std::collections::HashSet;

use super::Columns;
use super::label_lists::indicator;
use hone_base::error::{Error, Result, quoted};

/// Usual names of a text column; an earlier one is preferred.
const TEXT_NAMES: [&str; 22] = [
    "text",
    "sentence",
    "review",
    "review_text",
    "reviewtext",
    "content",
    "comment",
    "comment_text",
    "message",
    "document",
    "body",
    "review_body",
    "tweet",
    "post",
    "question",
    "query",
    "utterance",
    "headline",
    "abstract",
    "description",
    "phrase",
    "sms",
];

/// Usual names of the second text of a pair.
const SECOND_TEXT_NAMES: [&str; 10] = [
    "sentence1",
    "sentence2",
    "text_pair",
    "text2",
    "premise",
    "hypothesis",
    "question1",
    "question2",
    "passage",
    "title",
];

/// Usual names of a label column; an earlier one is preferred.
const LABEL_NAMES: [&str; 18] = [
    "label",
    "labels",
    "class",
    "category",
    "sentiment",
    "target",
    "stars",
    "rating",
    "star_rating",
    "score",
    "polarity",
    "intent",
    "topic",
    "emotion",
    "airline_sentiment",
    "class_label",
    "label_text",
    "y",
];

/// A guessed text column is this many times longer than the next one.
const CLEARLY_LONGER: usize = 2;
/// Different values that a guessed label column has at most.
const MOST_GUESSED_LABELS: usize = 50;
/// Characters of a guessed label's value at most.
const LONGEST_GUESSED_LABEL: usize = 64;

/// The places of the columns in use, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) text: Option<usize>,
    pub(super) text_pair: Option<usize>,
    pub(super) label: Option<usize>,
    /// One for each label, instead of `label`.
    pub(super) label_columns: Vec<usize>,
    no_header: bool,
    guesses: Vec<String>,
}

impl Choice {
    /// Takes the columns that the user named, and those that names tell.
    pub(super) fn by_name(file: &str, columns: &[String], given: &Columns) -> Result<Self> {
        let named = |name: &Option<String>| name.as_ref().map(|name| find(file, columns, name)).transpose();
        let label_columns = given.label_columns.iter().map(|name| find(file, columns, name));
        let mut choice = Self {
            text: named(&given.text)?,
            text_pair: named(&given.text_pair)?,
            label: if given.label_columns.is_empty() { named(&given.label)? } else { None },
            label_columns: label_columns.collect::<Result<_>>()?,
            no_header: given.dialect.no_header,
            guesses: vec![],
        };
        choice.check_distinct(file, columns)?;
        if !choice.has_label()
            && let Some(place) = choice.free_column(columns, &LABEL_NAMES)
        {
            choice.guess_label(file, columns, place, "name")?;
        }
        if choice.text.is_none()
            && let Some(place) = choice.free_column(columns, &TEXT_NAMES)
        {
            choice.guess_text(file, columns, place, "name")?;
        }
        Ok(choice)
    }

    /// Whether nothing is left to guess.
    pub(super) fn is_complete(&self) -> bool {
        self.text.is_some() && self.has_label()
    }

    fn has_label(&self) -> bool {
        self.label.is_some() || !self.label_columns.is_empty()
    }

    /// Guesses what names did not tell from the first rows; a cell that is no text and no label is `None`.
    pub(super) fn by_values(
        mut self,
        file: &str,
        columns: &[String],
        rows: &[Vec<Option<String>>],
    ) -> Result<Self> {
        if self.text.is_none() {
            let place = self.longest(columns, rows).ok_or_else(|| {
                let fields = "`columns.text` (and a second text with `columns.text_pair`)";
                unclear(file, columns, "text", fields)
            })?;
            self.guess_text(file, columns, place, "length")?;
        }
        if !self.has_label() {
            let place = self.few_valued(columns, rows).ok_or_else(|| self.no_label(file, columns, rows))?;
            let name = columns.get(place).map_or("", String::as_str);
            if !self.no_header && values(rows, place).flatten().any(|value| value.trim() == name) {
                return Err(Error::invalid(format!(
                    "{file}, line 1: the first line looks like data (\"{name}\" is a label); write a header above it that \
                     names the columns, or set `columns.dialect.no_header`, and name the columns by their numbers",
                )));
            }
            self.guess_label(file, columns, place, "values")?;
        }
        Ok(self)
    }

    /// What was guessed, in words; empty when all was given.
    pub(super) fn guess(&self) -> String {
        self.guesses.join(", ")
    }

    /// What is told where no column is clearly the label: columns of 0 and 1 are shown with their field.
    fn no_label(&self, file: &str, columns: &[String], rows: &[Vec<Option<String>>]) -> Error {
        let is_indicator = |place: &usize| {
            !self.is_used(*place)
                && values(rows, *place).all(|value| value.is_some_and(|value| indicator(value).is_some()))
        };
        let names: Vec<&str> = (0..columns.len())
            .filter(is_indicator)
            .filter_map(|place| columns.get(place))
            .map(String::as_str)
            .collect();
        match names.len() {
            0 | 1 => unclear(file, columns, "label", "`columns.label`"),
            _ => Error::invalid(format!(
                "{file}: cannot tell which column is the label; {} hold 0 and 1: if each is a label, set \
                 `columns.label_columns = {}` (with `columns.label_separator` when a row may have several of them or none), \
                 else name one with `columns.label`",
                list(&names),
                names.join(","),
            )),
        }
    }

    /// Columns that are not used and hold texts beside the one that is, going by their names.
    pub(super) fn unused_texts<'a>(&self, columns: &'a [String]) -> Vec<&'a str> {
        if self.text_pair.is_some() {
            return vec![];
        }
        let names = columns
            .iter()
            .enumerate()
            .filter(|(place, _)| !self.is_used(*place))
            .map(|(_, name)| name.as_str());
        names
            .filter(|name| {
                TEXT_NAMES.iter().chain(&SECOND_TEXT_NAMES).any(|known| known.eq_ignore_ascii_case(name))
            })
            .collect()
    }

    fn guess_text(&mut self, file: &str, columns: &[String], place: usize, by: &str) -> Result<()> {
        self.text = Some(place);
        self.note(file, columns, "text", place, by)
    }

    fn guess_label(&mut self, file: &str, columns: &[String], place: usize, by: &str) -> Result<()> {
        self.label = Some(place);
        self.note(file, columns, "label", place, by)
    }

    fn note(&mut self, file: &str, columns: &[String], role: &str, place: usize, by: &str) -> Result<()> {
        let name = columns.get(place).map_or("", String::as_str);
        find(file, columns, name)?;
        self.guesses.push(format!("{role} column \"{name}\" (by its {by})"));
        Ok(())
    }

    fn is_used(&self, place: usize) -> bool {
        [self.text, self.text_pair, self.label].contains(&Some(place)) || self.label_columns.contains(&place)
    }

    fn free_column(&self, columns: &[String], names: &[&str]) -> Option<usize> {
        let of_name = |is_it: &dyn Fn(&str, &str) -> bool| {
            names.iter().find_map(|name| {
                (0..columns.len()).find(|&place| {
                    !self.is_used(place) && columns.get(place).is_some_and(|column| is_it(column, name))
                })
            })
        };
        // Inside objects, the last part of a dotted name tells.
        of_name(&|column, name| column.eq_ignore_ascii_case(name)).or_else(|| {
            of_name(&|column, name| {
                column.rsplit_once('.').is_some_and(|(_, last)| last.eq_ignore_ascii_case(name))
            })
        })
    }

    /// The column whose texts are clearly the longest.
    fn longest(&self, columns: &[String], rows: &[Vec<Option<String>>]) -> Option<usize> {
        let length = |place| values(rows, place).flatten().map(str::len).sum::<usize>();
        let mut lengths: Vec<(usize, usize)> = (0..columns.len())
            .filter(|&place| !self.is_used(place))
            .map(|place| (length(place), place))
            .collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        match *lengths.as_slice() {
            [(longest, place)] if longest > 0 => Some(place),
            [(longest, place), (next, _), ..] if longest > 0 && longest >= CLEARLY_LONGER * next => {
                Some(place)
            }
            _ => None,
        }
    }

    /// The column that looks like labels and has the fewest different values, when there is one such column.
    fn few_valued(&self, columns: &[String], rows: &[Vec<Option<String>>]) -> Option<usize> {
        let most = MOST_GUESSED_LABELS.min(rows.len() / 2).max(2);
        let different = |place| -> Option<usize> {
            let mut seen = HashSet::new();
            for value in values(rows, place) {
                let value = value.map(str::trim).filter(|value| !value.is_empty())?;
                if value.chars().nth(LONGEST_GUESSED_LABEL).is_some() {
                    return None;
                }
                seen.insert(value);
            }
            (2..=most).contains(&seen.len()).then_some(seen.len())
        };
        let mut counts: Vec<(usize, usize)> = (0..columns.len())
            .filter(|&place| !self.is_used(place))
            .filter_map(|place| Some((different(place)?, place)))
            .collect();
        counts.sort_unstable();
        match *counts.as_slice() {
            [(_, place)] => Some(place),
            [(fewest, place), (next, _), ..] if fewest < next => Some(place),
            _ => None,
        }
    }

    fn check_distinct(&self, file: &str, columns: &[String]) -> Result<()> {
        let roles = [self.text, self.text_pair, self.label].into_iter().flatten();
        let used: Vec<usize> = roles.chain(self.label_columns.iter().copied()).collect();
        match used.iter().enumerate().find(|(i, place)| used[..*i].contains(place)) {
            None => Ok(()),
            Some((_, &place)) => Err(Error::invalid(format!(
                "{file}: column \"{}\" is named twice; text, second text and label stand in different columns",
                columns.get(place).map_or("", String::as_str),
            ))),
        }
    }
}

/// The place of a column. Fails when it is not there, or more than once.
fn find(file: &str, columns: &[String], name: &str) -> Result<usize> {
    let mut places =
        (0..columns.len()).filter(|&place| columns.get(place).is_some_and(|column| column == name));
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (None, _) => {
            Err(Error::invalid(format!("{file}: there is no column \"{name}\"; {}", listed(columns))))
        }
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "{file}, line 1: more than one column is called \"{name}\"; rename one of them"
        ))),
    }
}

fn unclear(file: &str, columns: &[String], role: &str, flag: &str) -> Error {
    Error::invalid(format!(
        "{file}: cannot tell which column is the {role}; {}; name it with {flag}",
        listed(columns)
    ))
}

fn listed(columns: &[String]) -> String {
    const SHOWN: usize = 30;
    let names: Vec<String> = columns.iter().take(SHOWN).map(|column| quoted(column)).collect();
    match columns.len().checked_sub(SHOWN) {
        None | Some(0) => format!("the columns are {}", names.join(", ")),
        Some(more) => format!("the columns are {} and {more} more", names.join(", ")),
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn values(rows: &[Vec<Option<String>>], place: usize) -> impl Iterator<Item = Option<&str>> {
    rows.iter().map(move |row| row.get(place).and_then(Option::as_deref))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn choose(columns: &[&str], given: &Columns, rows: &[&[&str]]) -> Result<Choice> {
        let columns = strings(columns);
        let choice = Choice::by_name("f.csv", &columns, given)?;
        let rows: Vec<_> = rows.iter().map(|row| strings(row).into_iter().map(Some).collect()).collect();
        if choice.is_complete() { Ok(choice) } else { choice.by_values("f.csv", &columns, &rows) }
    }

    fn places(choice: Choice) -> (usize, usize) {
        (choice.text.unwrap(), choice.label.unwrap())
    }

    #[test]
    fn usual_names_are_found_whatever_their_case_and_order() {
        let none = Columns::default();
        for (columns, expected) in [
            (&["text", "label"][..], (0, 1)),
            (&["", "Sentiment", "Review"], (2, 1)),
            (&["id", "comment", "text", "class", "stars"], (2, 3)),
        ] {
            assert_eq!(places(choose(columns, &none, &[]).unwrap()), expected);
        }
        let guess = choose(&["review", "sentiment"], &none, &[]).unwrap().guess();
        assert_eq!(guess, "label column \"sentiment\" (by its name), text column \"review\" (by its name)");
    }

    #[test]
    fn a_named_column_is_taken_and_nothing_is_said_of_a_guess() {
        let given = Columns { text: Some("label".into()), label: Some("text".into()), ..Columns::default() };
        let choice = choose(&["text", "label"], &given, &[]).unwrap();
        assert_eq!(choice.guess(), "");
        assert_eq!(places(choice), (1, 0));
    }

    #[test]
    fn values_tell_what_names_do_not() {
        let rows: &[&[&str]] = &[
            &["1", "ein schöner, langer Film", "gut", "x"],
            &["2", "ein langer, langer Film", "schlecht", "x"],
            &["3", "nie wieder so etwas, bitte", "gut", "x"],
            &["4", "das Beste seit langer Zeit", "schlecht", "x"],
        ];
        let choice = choose(&["nr", "inhalt", "urteil", "quelle"], &Columns::default(), rows).unwrap();
        assert_eq!(
            choice.guess(),
            "text column \"inhalt\" (by its length), label column \"urteil\" (by its values)"
        );
        assert_eq!(places(choice), (1, 2));
    }

    #[test]
    fn what_is_unclear_or_wrong_lists_the_columns_and_the_flag() {
        let given = |text: Option<&str>, label: Option<&str>| Columns {
            text: text.map(str::to_owned),
            label: label.map(str::to_owned),
            ..Columns::default()
        };
        let pair: &[&[&str]] =
            &[&["a long sentence", "a long question", "0"], &["another one", "yet another", "1"]];
        let ids: &[&[&str]] = &[&["a text", "1"], &["a text", "2"], &["a text", "3"]];
        let two: &[&[&str]] = &[&["a text of words", "1", "a"], &["a text of words", "2", "b"]];
        let bare: &[&[&str]] = &[&["a text of words", "neg"], &["a text of words", "pos"]];
        for (columns, given, rows, expected) in [
            (
                &["sentence1", "sentence2", "label"][..],
                given(None, None),
                pair,
                "name it with `columns.text`",
            ),
            (
                &["text", "id"],
                given(None, None),
                ids,
                "the columns are \"text\", \"id\"; name it with `columns.label`",
            ),
            (&["text", "u", "v"], given(None, None), two, "name it with `columns.label`"),
            (&["text"], given(None, None), &[], "cannot tell which column is the label"),
            (
                &["a", "b"],
                given(Some("x"), Some("b")),
                &[],
                "there is no column \"x\"; the columns are \"a\", \"b\"",
            ),
            (&["a", "a"], given(Some("a"), None), &[], "more than one column is called \"a\""),
            (&["text", "text", "label"], given(None, None), &[], "more than one column is called \"text\""),
            (&["a", "b"], given(Some("a"), Some("a")), &[], "column \"a\" is named twice"),
            (&["a text of words", "neg"], given(None, None), bare, "line 1: the first line looks like data"),
        ] {
            let error = choose(columns, &given, rows).unwrap_err();
            assert!(error.message().starts_with("f.csv"), "{error}");
            assert!(error.message().contains(expected), "{error} does not contain {expected}");
        }
    }

    #[test]
    fn a_repeated_name_that_is_not_in_use_does_no_harm() {
        assert!(choose(&["x", "x", "text", "label"], &Columns::default(), &[]).is_ok());
    }
}
