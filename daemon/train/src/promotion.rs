//! Whether the version that a job makes is to become what an alias points at: a condition on its metrics, such as
//! `accuracy >= current` or `f1 > current+0.01 and loss < 0.4`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::event::Metrics;
use hone_base::error::quoted;

/// Bytes of a condition at most.
pub const MAX_CONDITION: usize = 200;

/// What a job's version is promoted to, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// When.
    pub condition: Condition,
    /// The alias.
    pub alias: String,
}

/// Comparisons of metrics, all of which must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition(Vec<Comparison>);

/// One metric, and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Comparison {
    metric: Metric,
    relation: Relation,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    Accuracy,
    F1,
    Precision,
    Recall,
    Loss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// A number.
    Value(f64),
    /// The metric of the version that the alias points at, and so much more.
    Current(f64),
}

/// The metrics of a version.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// Of the kept epoch.
    pub validation: &'a Metrics,
    /// Where there was a test file.
    pub test: Option<&'a Metrics>,
}

/// Whether a condition holds, and how that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether all comparisons hold.
    pub holds: bool,
    /// The comparisons with their numbers, and the rows that they are of.
    pub why: String,
}

impl Condition {
    /// Whether it holds of a version, where `current` is the one that the alias points at. Without one, what is compared
    /// with it holds. The metrics are those of the test rows, if all versions that are looked at have been tested, else
    /// those of the validation rows.
    pub fn decide(&self, new: Scored<'_>, current: Option<Scored<'_>>) -> Decision {
        let looks_at_current = self.0.iter().any(|of| matches!(of.bound, Bound::Current(_)));
        let tested = match (new.test, current.filter(|_| looks_at_current)) {
            (Some(new), None) => Some((new, None)),
            (Some(new), Some(current)) => current.test.map(|current| (new, Some(current))),
            (None, _) => None,
        };
        let (rows, new, current) = match tested {
            Some((new, current)) => ("test", new, current),
            None => ("validation", new.validation, current.map(|current| current.validation)),
        };
        let compared: Vec<(bool, String)> = self.0.iter().map(|of| of.compare(new, current)).collect();
        let words: Vec<&str> = compared.iter().map(|(_, words)| words.as_str()).collect();
        Decision {
            holds: compared.iter().all(|(holds, _)| *holds),
            why: format!("{} on the {rows} rows", words.join(" and ")),
        }
    }
}

impl Comparison {
    fn compare(self, new: &Metrics, current: Option<&Metrics>) -> (bool, String) {
        let (name, value) = (self.metric.name(), self.metric.of(new));
        let bound = match (self.bound, current) {
            (Bound::Value(bound), _) => bound,
            (Bound::Current(more), Some(current)) => self.metric.of(current) + more,
            (Bound::Current(_), None) => {
                return (true, format!("{name} {value:.4} (there is no current version)"));
            }
        };
        let holds = match self.relation {
            Relation::Less => value < bound,
            Relation::AtMost => value <= bound,
            Relation::Greater => value > bound,
            Relation::AtLeast => value >= bound,
        };
        let verb = if holds { "is" } else { "is not" };
        (holds, format!("{name} {value:.4} {verb} {} {bound:.4}", self.relation.sign()))
    }
}

impl Metric {
    const ALL: [Self; 5] = [Self::Accuracy, Self::F1, Self::Precision, Self::Recall, Self::Loss];

    fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::Loss => "loss",
        }
    }

    fn of(self, metrics: &Metrics) -> f64 {
        match self {
            Self::Accuracy => metrics.accuracy,
            Self::F1 => metrics.f1,
            Self::Precision => metrics.precision,
            Self::Recall => metrics.recall,
            Self::Loss => metrics.loss,
        }
    }
}

impl Relation {
    /// The longer signs first, so that each is recognised.
    const ALL: [Self; 4] = [Self::AtMost, Self::AtLeast, Self::Less, Self::Greater];

    fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_CONDITION {
            return Err(format!("a condition has at most {MAX_CONDITION} bytes"));
        }
        text.split(" and ").map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Comparison {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "for example accuracy >= current, or f1 > current+0.01 and loss < 0.4";
        let at = text
            .find(['<', '>'])
            .ok_or_else(|| format!("expected a metric, <, <=, > or >=, and a bound; {example}"))?;
        let (metric, rest) = text.split_at(at);
        let metric = Metric::ALL.into_iter().find(|known| known.name() == metric.trim());
        let metric = metric.ok_or_else(|| {
            format!(
                "{} is no metric: they are accuracy, f1, precision, recall and loss",
                quoted(text.split_at(at).0.trim())
            )
        })?;
        let relation = Relation::ALL.into_iter().find(|relation| rest.starts_with(relation.sign()));
        let relation = relation.ok_or_else(|| format!("expected <, <=, > or >=; {example}"))?;
        let bound = rest.get(relation.sign().len()..).unwrap_or_default().trim();
        let number = |text: &str| {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            number.ok_or_else(|| {
                format!("{} is neither a number nor current, current+X or current-X", quoted(bound))
            })
        };
        let bound = match bound.strip_prefix("current").map(str::trim) {
            None => Bound::Value(number(bound)?),
            Some("") => Bound::Current(0.0),
            Some(more) => match (more.strip_prefix('+'), more.strip_prefix('-')) {
                (Some(more), _) => Bound::Current(number(more.trim())?),
                (_, Some(less)) => Bound::Current(-number(less.trim())?),
                _ => {
                    return Err(number(more)
                        .err()
                        .unwrap_or_else(|| format!("expected + or - after current; {example}")));
                }
            },
        };
        Ok(Self { metric, relation, bound })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Comparison { metric, relation, bound }) in self.0.iter().enumerate() {
            let and = if place > 0 { " and " } else { "" };
            write!(to, "{and}{} {} ", metric.name(), relation.sign())?;
            match bound {
                Bound::Value(value) => write!(to, "{value}")?,
                Bound::Current(more) if *more == 0.0 => to.write_str("current")?,
                Bound::Current(more) => write!(to, "current{more:+}")?,
            }
        }
        Ok(())
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.to_string()
    }
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(accuracy: f64, loss: f64) -> Metrics {
        Metrics {
            loss,
            accuracy,
            f1: 0.5,
            recall: 0.5,
            precision: 0.5,
            rows: 10,
            labels: vec![],
            micro: None,
        }
    }

    fn scored<'a>(validation: &'a Metrics, test: Option<&'a Metrics>) -> Scored<'a> {
        Scored { validation, test }
    }

    fn decide(condition: &str, new: Scored<'_>, current: Option<Scored<'_>>) -> Decision {
        condition.parse::<Condition>().unwrap().decide(new, current)
    }

    #[test]
    fn a_condition_is_read_as_it_is_written_and_written_as_it_is_read() {
        for (text, written) in [
            ("accuracy >= current", "accuracy >= current"),
            ("f1>current+0.01 and loss < 0.4", "f1 > current+0.01 and loss < 0.4"),
            ("  recall <= current - 0.5 ", "recall <= current-0.5"),
            ("precision<1", "precision < 1"),
        ] {
            let condition: Condition = text.parse().unwrap();
            assert_eq!(condition.to_string(), written);
            assert_eq!(written.parse(), Ok(condition));
        }
    }

    #[test]
    fn nonsense_is_refused_with_words_about_it() {
        for (text, words) in [
            ("", "expected a metric"),
            ("accuracy", "expected a metric"),
            ("accuracy = 1", "expected a metric"),
            ("acc > 1", "\"acc\" is no metric"),
            ("loss < low", "\"low\" is neither a number"),
            ("loss < nan", "\"nan\" is neither"),
            ("loss < current*2", "\"current*2\" is neither"),
            ("loss < current 2", "expected + or -"),
            ("loss < 1 and", "neither a number"),
            (&"loss < 1 and ".repeat(40), "at most 200 bytes"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn all_comparisons_must_hold() {
        let (better, worse) = (metrics(0.91, 0.3), metrics(0.90, 0.2));
        let (new, current) = (scored(&better, None), Some(scored(&worse, None)));
        let decision = decide("accuracy >= current", new, current);
        assert_eq!(
            (decision.holds, decision.why.as_str()),
            (true, "accuracy 0.9100 is >= 0.9000 on the validation rows")
        );
        let decision = decide("accuracy > current and loss <= current", new, current);
        assert!(!decision.holds && decision.why.contains("loss 0.3000 is not <= 0.2000"), "{decision:?}");
        assert!(!decide("accuracy > current+0.02", new, current).holds);
        assert!(decide("accuracy > current-0.02 and loss < 0.31", new, current).holds);
    }

    #[test]
    fn test_rows_count_where_all_versions_have_been_tested_and_a_first_version_is_as_good_as_it_is() {
        let (high, low) = (metrics(0.9, 0.1), metrics(0.5, 0.9));
        let both = decide("accuracy > current", scored(&low, Some(&high)), Some(scored(&low, Some(&low))));
        assert!(both.holds && both.why.ends_with("on the test rows"), "{both:?}");
        let one = decide("accuracy > current", scored(&low, Some(&high)), Some(scored(&low, None)));
        assert!(!one.holds && one.why.ends_with("on the validation rows"), "{one:?}");
        let value = decide("accuracy > 0.8", scored(&low, Some(&high)), Some(scored(&low, None)));
        assert!(value.holds && value.why.ends_with("on the test rows"), "{value:?}");
        assert!(decide("accuracy > current", scored(&low, None), None).holds);
        assert!(!decide("accuracy > current and accuracy > 0.8", scored(&low, None), None).holds);
    }
}
