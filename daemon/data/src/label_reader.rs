//! What the cells of a file say of labels: one or several in a column, or a 0 or 1 in a column for each label.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Columns;
use super::label_lists::{self, Indicators, indicator};
use super::label_sets::LabelSet;
use super::missing::{self, MissingLabel, MissingRows};
use super::row::Cell;
use super::spelling::{self, Spelling};
use hone_base::error::{Error, Result};

/// What may stand between labels that a file has in one cell; those that take part in another come behind it.
const SEPARATORS: [&str; 7] = [", ", "|", ";", ",", "#", "/", "\t"];

/// A separator is told where this share of the rows has it.
const WORTH_TELLING: f64 = 0.1;

/// Reads labels row by row; what depends on all rows is settled by [`LabelReader::finish`].
pub(super) struct LabelReader<'a> {
    file: &'a str,
    column: String,
    columns: &'a Columns,
    missing: MissingRows,
    spelling: Spelling,
    indicators: Indicators,
    repeated: u64,
}

/// What all rows together say of labels.
pub(super) struct Settled {
    /// In class order, where the file or the user gives one; else empty.
    pub(super) names: Vec<String>,
    /// What is to be told.
    pub(super) notes: Vec<String>,
}

impl<'a> LabelReader<'a> {
    /// Messages call the file and its column so.
    pub(super) fn new(file: &'a str, column: String, columns: &'a Columns) -> Self {
        Self {
            file,
            column,
            columns,
            missing: MissingRows::default(),
            spelling: Spelling::default(),
            indicators: Indicators::default(),
            repeated: 0,
        }
    }

    /// The labels in a cell; `None` where there are none, so that the row is left out or the file is refused in the end.
    /// Of several labels they are as the cell has them until the end, when it is known whether they are indicators.
    pub(super) fn cell(
        &mut self,
        line: u64,
        cell: Cell<'_>,
    ) -> Result<Option<Vec<String>>, Cow<'static, str>> {
        let several = self.columns.label_separator.as_deref();
        let text = match cell {
            Cell::Text(text) => text.into_owned(),
            Cell::Plain(text) => text,
            Cell::List(items) if several.is_some() => return Ok(Some(self.items(items, true))),
            Cell::List(_) => {
                return Err(
                    "the label is a list; set `columns.label_separator` when a row may have several labels"
                        .into(),
                );
            }
            Cell::Other(what) => return Err(format!("the label is {what}, not a string or a number").into()),
            Cell::Null => return Ok(self.missing(line, Some("null"))),
            Cell::Missing => return Ok(self.missing(line, None)),
        };
        if missing::is_word(text.trim()) {
            if self.columns.missing_label != MissingLabel::Keep {
                return Ok(self.missing(line, Some(text.trim())));
            }
            self.missing.keep(text.trim());
        }
        if let Some(separator) = several {
            if let Some(items) = label_lists::items(&text) {
                return Ok(Some(self.items(items, true)));
            }
            return Ok(Some(self.items(text.split(separator).map(str::to_owned).collect(), false)));
        }
        let label = self.spelling.of(&text);
        if label.is_empty() {
            return Ok(self.missing(line, None));
        }
        Ok(Some(vec![label]))
    }

    /// The labels of a row with a column for each label.
    pub(super) fn one_hot(&self, cells: &[Cell<'_>]) -> Result<Vec<String>, (usize, String)> {
        let mut set = vec![];
        for (place, (cell, name)) in cells.iter().zip(self.one_hot_names()).enumerate() {
            let text = match cell {
                Cell::Text(text) => text,
                Cell::Plain(text) => text.as_str(),
                _ => "",
            };
            match indicator(text) {
                Some(true) => set.push(name.clone()),
                Some(false) => {}
                None => {
                    let what = if text.trim().is_empty() {
                        "the cell is empty".into()
                    } else {
                        format!("\"{text}\"")
                    };
                    return Err((
                        place,
                        format!("{what}; a column of `columns.label_columns` has a 0 or a 1 in each row"),
                    ));
                }
            }
        }
        match (self.columns.label_separator.is_some(), set.len()) {
            (true, _) | (_, 1) => Ok(set),
            (false, count) => Err((
                0,
                format!(
                    "{count} of the label columns are 1; set `columns.label_separator` when a row may have several labels \
                     or none"
                ),
            )),
        }
    }

    fn one_hot_names(&self) -> &[String] {
        match self.columns.label_names.len() == self.columns.label_columns.len() {
            true => &self.columns.label_names,
            false => &self.columns.label_columns,
        }
    }

    fn items(&mut self, items: Vec<String>, is_list: bool) -> Vec<String> {
        self.indicators.add(&items, is_list);
        items
    }

    fn missing(&mut self, line: u64, word: Option<&str>) -> Option<Vec<String>> {
        self.missing.add(line, word);
        None
    }

    /// Settles what depends on all rows.
    ///
    /// # Errors
    /// Fails where labels are missing and must not be, and where names do not fit.
    pub(super) fn finish(mut self, sets: &mut [LabelSet]) -> Result<Settled> {
        let missing =
            self.missing.finish(self.file, &self.column, self.columns.missing_label).map_err(|error| {
                // An empty cell may well be a row without any of several labels.
                match self.other_separator(&counts(sets), sets) {
                    Some(note) => Error::new(error.kind(), format!("{}. {note}", error.message())),
                    None => error,
                }
            })?;
        let mut notes: Vec<String> = missing.into_iter().collect();
        let given = &self.columns.label_names;
        let mut names = vec![];
        if !self.columns.label_columns.is_empty() {
            if !given.is_empty() && given.len() != self.columns.label_columns.len() {
                label_lists::names(self.file, self.columns.label_columns.len(), given)?;
            }
            names = self.one_hot_names().to_vec();
        } else if let Indicators::Of(length) = self.indicators {
            names = label_lists::names(self.file, length, given)?;
            for set in sets.iter_mut() {
                set.labels = label_lists::set(&set.labels, &names).into();
            }
            notes.push(format!("each row's label is a list of {length} indicators, one for each label"));
        } else if self.columns.label_separator.is_some() {
            sets.iter_mut().for_each(|set| self.clean(set));
        }
        if names.is_empty() && !given.is_empty() {
            Self::rename(self.file, sets, given)?;
            names = given.clone();
        }
        for set in sets.iter_mut().filter(|set| !set.labels.is_sorted()) {
            let mut sorted = set.labels.to_vec();
            sorted.sort_unstable();
            set.labels = sorted.into();
        }
        notes.extend(self.spelling.notes());
        if self.repeated > 0 {
            let rows = if self.repeated == 1 {
                "1 row names".into()
            } else {
                format!("{} rows name", self.repeated)
            };
            notes.push(format!("{rows} a label more than once; it counts once"));
        }
        let rows = counts(sets);
        notes.extend(spelling::look_alikes(rows.keys().copied()));
        notes.extend(self.other_separator(&rows, sets));
        Ok(Settled { names, notes })
    }

    fn clean(&mut self, set: &mut LabelSet) {
        let labels = set.labels.iter().map(|label| self.spelling.of_rows(label, set.rows));
        let mut cleaned: Vec<String> = labels.filter(|label| !label.is_empty()).collect();
        cleaned.sort_unstable();
        let with_repeats = cleaned.len();
        cleaned.dedup();
        if cleaned.len() < with_repeats {
            self.repeated += set.rows;
        }
        set.labels = cleaned.into();
    }

    /// Gives the integers 0, 1, … their names.
    fn rename(file: &str, sets: &mut [LabelSet], names: &[String]) -> Result<()> {
        for set in sets {
            let name = |label: &String| {
                if names.contains(label) {
                    return Ok(label.clone());
                }
                let name = label.parse::<usize>().ok().and_then(|place| names.get(place));
                name.cloned().ok_or_else(|| {
                    Error::invalid(format!(
                        "{file}, line {}: `columns.label_names` names {} labels ({}), and \"{label}\" is none of them, nor a number \
                         from 0 to {}",
                        set.line,
                        names.len(),
                        names.join(", "),
                        names.len() - 1
                    ))
                })
            };
            set.labels = set.labels.iter().map(name).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// What is to be told where cells seem to hold several labels and are not read so.
    fn other_separator(&self, rows: &HashMap<&str, u64>, sets: &[LabelSet]) -> Option<String> {
        let total = sets.iter().map(|set| set.rows).sum::<u64>().max(1) as f64;
        let used = self.columns.label_separator.as_deref();
        if used.is_some() && sets.iter().any(|set| set.labels.len() > 1) {
            return None;
        }
        let share = |is_one: &dyn Fn(&str) -> bool| {
            let count: u64 = rows.iter().filter(|(label, _)| is_one(label)).map(|(_, count)| count).sum();
            (count, count as f64 / total)
        };
        let (lists, share_of_lists) = share(&|label| label_lists::items(label).is_some());
        if used.is_none() && lists >= 2 && share_of_lists >= WORTH_TELLING {
            return Some(format!(
                "{lists} labels look like lists; with `columns.label_separator` each is several labels"
            ));
        }
        SEPARATORS.iter().filter(|separator| Some(**separator) != used).find_map(|separator| {
            let (count, share) = share(&|label| label.contains(separator));
            // The parts of real lists come again, alone or in other lists.
            let mut parts: HashMap<&str, usize> = HashMap::new();
            for (label, _) in rows.iter().filter(|(label, _)| label.contains(separator)) {
                label.split(separator).for_each(|part| *parts.entry(part.trim()).or_default() += 1);
            }
            let again =
                parts.iter().any(|(part, lists)| !part.is_empty() && (*lists > 1 || rows.contains_key(part)));
            (count >= 2 && share >= WORTH_TELLING && again).then(|| {
                format!(
                    "{count} labels contain \"{separator}\"; if a row has several labels, set \
                     `columns.label_separator = \"{separator}\"`"
                )
            })
        })
    }
}

/// Rows of each label.
fn counts(sets: &[LabelSet]) -> HashMap<&str, u64> {
    let mut rows: HashMap<&str, u64> = HashMap::new();
    for (label, of) in sets.iter().flat_map(|set| set.labels.iter().map(|label| (label, set.rows))) {
        *rows.entry(label).or_default() += of;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::label_sets::LabelSets;
    use super::*;

    fn read(columns: &Columns, cells: &[Cell<'static>]) -> Result<(Vec<Vec<String>>, Settled)> {
        let mut reader = LabelReader::new("f.csv", "label".to_owned(), columns);
        let (mut sets, mut places) = (LabelSets::default(), vec![]);
        for (cell, line) in cells.iter().zip(2..) {
            let labels = reader.cell(line, cell.clone()).map_err(Error::invalid)?;
            places.extend(labels.map(|labels| sets.add(labels, line).0));
        }
        let mut sets = sets.into_sets();
        let settled = reader.finish(&mut sets)?;
        Ok((places.into_iter().map(|place| sets[place as usize].labels.to_vec()).collect(), settled))
    }

    fn text(text: &'static str) -> Cell<'static> {
        Cell::Text(text.into())
    }

    fn list(items: &[&str]) -> Cell<'static> {
        Cell::List(items.iter().map(|&item| item.to_owned()).collect())
    }

    fn several() -> Columns {
        Columns { label_separator: Some("|".into()), ..Columns::default() }
    }

    #[test]
    fn with_a_separator_a_cell_holds_any_number_of_labels() {
        let cells = [
            text("b| a |b"),
            text(" "),
            text("|a|"),
            list(&["x|y", "10", " "]),
            list(&[]),
            Cell::Plain("3".to_owned()),
            text("['p', 'q']"),
        ];
        let (labels, settled) = read(&several(), &cells).unwrap();
        assert_eq!(
            labels,
            [&["a", "b"][..], &[], &["a"], &["10", "x|y"], &[], &["3"], &["p", "q"]].map(<[&str]>::to_vec)
        );
        assert_eq!(settled.notes, ["1 row names a label more than once; it counts once"]);
    }

    #[test]
    fn without_one_a_cell_holds_exactly_one() {
        let (labels, settled) = read(&Columns::default(), &[text(" a|b "), text("c")]).unwrap();
        assert_eq!(labels, [["a|b"], ["c"]]);
        assert!(settled.notes.is_empty() && settled.names.is_empty());
        let refused = |cell| read(&Columns::default(), &[cell]).map(drop).unwrap_err();
        assert!(refused(list(&[])).message().contains("`columns.label_separator`"));
        for missing in [text(" "), text("\u{200b}"), text("NaN"), Cell::Null, Cell::Missing] {
            assert!(refused(missing).message().contains("line 2, column \"label\": 1 row has no label"));
        }
    }

    #[test]
    fn a_missing_label_is_dropped_or_a_word_is_kept_as_asked() {
        let with = |missing_label| Columns { missing_label, ..Columns::default() };
        let cells = [text("a"), text("None"), text("b")];
        let (labels, _) = read(&with(MissingLabel::Drop), &cells).unwrap();
        assert_eq!(labels, [["a"], ["b"]]);
        let (labels, settled) = read(&with(MissingLabel::Keep), &cells).unwrap();
        assert_eq!(labels, [["a"], ["None"], ["b"]]);
        assert!(settled.notes[0].contains("\"None\""), "{:?}", settled.notes);
    }

    #[test]
    fn lists_of_indicators_are_read_as_such_with_and_without_names() {
        let cells = [list(&["1", "0", "1"]), list(&["0", "0", "0"]), text("[0, 1, 0]")];
        let (labels, settled) = read(&several(), &cells).unwrap();
        assert_eq!(labels, [&["0", "2"][..], &[], &["1"]].map(<[&str]>::to_vec));
        assert_eq!(settled.names, ["0", "1", "2"]);
        let named = Columns { label_names: ["x", "y", "a"].map(str::to_owned).to_vec(), ..several() };
        let (labels, settled) = read(&named, &cells).unwrap();
        assert_eq!(labels, [&["a", "x"][..], &[], &["y"]].map(<[&str]>::to_vec));
        assert_eq!(settled.names, ["x", "y", "a"]);
    }

    #[test]
    fn names_are_given_to_integers_and_kept_in_their_order() {
        let named = Columns { label_names: ["neg", "Pos"].map(str::to_owned).to_vec(), ..Columns::default() };
        let (labels, settled) = read(&named, &[text("1.0"), text("0"), text("Pos")]).unwrap();
        assert_eq!(labels, [["Pos"], ["neg"], ["Pos"]]);
        assert_eq!(settled.names, ["neg", "Pos"]);
        let error = read(&named, &[text("2")]).map(drop).unwrap_err();
        assert!(
            error.message().contains("line 2: `columns.label_names` names 2 labels (neg, Pos)"),
            "{error}"
        );
    }

    #[test]
    fn a_column_for_each_label_is_one_label_or_several() {
        let label_columns = ["a", "b"].map(str::to_owned).to_vec();
        let one = Columns { label_columns: label_columns.clone(), ..Columns::default() };
        let reader = LabelReader::new("f.csv", "a".to_owned(), &one);
        let plain = |text: &str| Cell::Plain(text.to_owned());
        assert_eq!(reader.one_hot(&[text("0"), plain("true")]).unwrap(), ["b"]);
        assert!(reader.one_hot(&[text("1"), text("1")]).unwrap_err().1.contains("`columns.label_separator`"));
        assert_eq!(reader.one_hot(&[text("0"), text("2")]).unwrap_err().0, 1);
        assert!(reader.one_hot(&[text(""), text("1")]).unwrap_err().1.contains("the cell is empty"));
        let any = Columns { label_columns, ..several() };
        let reader = LabelReader::new("f.csv", "a".to_owned(), &any);
        assert_eq!(reader.one_hot(&[text("1"), text("1")]).unwrap(), ["a", "b"]);
        assert!(reader.one_hot(&[text("0"), text("0.0")]).unwrap().is_empty());
    }

    #[test]
    fn another_separator_is_told_with_the_flag() {
        let told = |columns: &Columns, cells: &[&'static str]| {
            let cells: Vec<_> = cells.iter().map(|&cell| text(cell)).collect();
            read(columns, &cells).unwrap().1.notes.join("; ")
        };
        let note = told(&Columns::default(), &["joy#trust", "anger", "joy#fear", "fear"]);
        assert!(
            note.contains("2 labels contain \"#\"") && note.contains("set `columns.label_separator = \"#\"`"),
            "{note}"
        );
        let note = told(&several(), &["joy, trust", "anger", "joy, fear", ""]);
        assert!(note.contains("set `columns.label_separator = \", \"`"), "{note}");
        let note = told(&Columns::default(), &["['a', 'b']", "['a']", "['b']"]);
        assert!(note.contains("`columns.label_separator`"), "{note}");
        assert_eq!(told(&Columns::default(), &["World, Asia", "Sports", "Science/Tech", "Business"]), "");
        assert_eq!(told(&several(), &["a|b, c", "a", "b, c"]), "");
    }
}
