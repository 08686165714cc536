//! Names in messages: the one that was probably meant, and lists that are cut to a few.

use strsim::damerau_levenshtein;

/// Names that a list shows at most.
const SHOWN: usize = 8;

/// The known name that is nearest to a name that is not known, if it is near: a slip or two, or more that is the same
/// at its beginning.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let length = wanted.chars().count();
    let slips = (length / 3).clamp(1, 4);
    let distance = |name: &&'a str| {
        let name = name.to_lowercase();
        let distance = damerau_levenshtein(&wanted, &name);
        let is_beginning = length >= 3 && name.starts_with(&wanted);
        (distance <= slips && distance < length.max(1) || is_beginning).then_some(distance)
    };
    let near = known.into_iter().filter_map(|name| Some((distance(&name)?, name)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// A list of names, cut to a few: "a, b and 37 more".
pub fn few<T: std::fmt::Display>(names: impl ExactSizeIterator<Item = T>) -> String {
    let all = names.len();
    // A list is not cut for the sake of one.
    let shown = if all == SHOWN + 1 { all } else { SHOWN };
    let list = names.take(shown).map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    if all > shown { format!("{list} and {} more", all - shown) } else { list }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_leads_to_the_name_that_was_meant() {
        let known = ["reviews", "topics", "spam-2024"];
        for (wanted, expected) in [
            ("reveiws", Some("reviews")),
            ("Reviews", Some("reviews")),
            ("review", Some("reviews")),
            ("rev", Some("reviews")),
            ("topcis", Some("topics")),
            ("spam-2042", Some("spam-2024")),
            ("films", None),
            ("t", None),
            ("", None),
        ] {
            assert_eq!(nearest(wanted, known), expected, "{wanted}");
        }
        assert_eq!(nearest("a", []), None);
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        assert_eq!(few((1..=3).collect::<Vec<_>>().iter()), "1, 2, 3");
        assert_eq!(few((1..=9).collect::<Vec<_>>().iter()), "1, 2, 3, 4, 5, 6, 7, 8, 9");
        assert_eq!(few((1..=45).collect::<Vec<_>>().iter()), "1, 2, 3, 4, 5, 6, 7, 8 and 37 more");
    }
}
