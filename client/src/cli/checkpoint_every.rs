//! The flag `--checkpoint-every`: steps, a time, or a word.

use hone::v1::hyperparameters::CheckpointEvery;

/// Parses `500` (optimizer steps), `10m` or `2h` (minutes), or `epoch`.
pub(super) fn parse(text: &str) -> Result<CheckpointEvery, String> {
    const MOST_MINUTES: u32 = 60 * 24 * 365;
    let text = text.trim();
    if text == "epoch" {
        return Ok(CheckpointEvery::CheckpointEpochs(true));
    }
    let wrong = || "must be a number of optimizer steps (500), a time (10m, 2h), or epoch".to_owned();
    let minutes = |digits: &str, unit: u32| -> Result<CheckpointEvery, String> {
        let number: u32 = digits.trim_end().parse().map_err(|_| wrong())?;
        let minutes = number.checked_mul(unit).filter(|minutes| (1..=MOST_MINUTES).contains(minutes));
        minutes.map(CheckpointEvery::CheckpointMinutes).ok_or("must be from 1m to a year".to_owned())
    };
    if let Some(digits) = text.strip_suffix('m') {
        return minutes(digits, 1);
    }
    if let Some(digits) = text.strip_suffix('h') {
        return minutes(digits, 60);
    }
    match text.parse() {
        Ok(0) => Err("must be 1 step or more".to_owned()),
        Ok(steps) => Ok(CheckpointEvery::CheckpointSteps(steps)),
        Err(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_times_and_epochs_are_told_apart() {
        for (text, expected) in [
            ("500", CheckpointEvery::CheckpointSteps(500)),
            ("10m", CheckpointEvery::CheckpointMinutes(10)),
            (" 2 h ", CheckpointEvery::CheckpointMinutes(120)),
            ("epoch", CheckpointEvery::CheckpointEpochs(true)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for (text, words) in [
            ("0", "1 step or more"),
            ("0m", "from 1m to a year"),
            ("4000000000h", "from 1m to a year"),
            ("10s", "a number of optimizer steps (500), a time (10m, 2h), or epoch"),
            ("-1", "a number of optimizer steps"),
            ("never", "a number of optimizer steps"),
            ("", "a number of optimizer steps"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
