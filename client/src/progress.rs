//! The line that moves: training in tqdm's manner, evaluation, bytes. Pure text; the output draws it.

use std::time::{Duration, Instant};

use console::measure_text_width;
use hone::v1;

use crate::output::format::{self, clock};

/// Without a terminal, a line of progress is printed at most this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// Weight of the newest rate in the running mean, as in tqdm.
const SMOOTHING: f64 = 0.3;

/// How far a job's training is.
#[derive(Debug, Default)]
pub(crate) struct StepProgress {
    rate: Option<f64>,
    began: Option<prost_types::Timestamp>,
}

impl StepProgress {
    /// Takes a step in and returns the line for it. Time is the daemon's, so that a replay shows what was.
    pub(crate) fn line(
        &mut self,
        step: &v1::StepMetrics,
        time: Option<&prost_types::Timestamp>,
        width: Option<usize>,
    ) -> String {
        let newest = step.steps_per_second;
        if newest.is_finite() && newest > 0.0 {
            self.rate = Some(self.rate.map_or(newest, |mean| SMOOTHING * newest + (1.0 - SMOOTHING) * mean));
        }
        let elapsed = match (&self.began, time) {
            (Some(began), Some(time)) => format::seconds_between(began, time),
            _ => f64::NAN,
        };
        step_line(step, elapsed, self.rate.unwrap_or(0.0), width)
    }

    /// Training began; what came before was preparation.
    pub(crate) fn begin(&mut self, time: Option<&prost_types::Timestamp>) {
        self.began = time.copied();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.began.is_some()
    }
}

fn step_line(step: &v1::StepMetrics, elapsed: f64, rate: f64, width: Option<usize>) -> String {
    let left = step.total_steps.saturating_sub(step.step) as f64 / rate;
    let epochs = step.total_steps.div_ceil(step.steps_per_epoch.max(1)).max(u64::from(step.epoch));
    let prefix = format!("epoch {}/{epochs} ", step.epoch);
    let times = format!("[{}<{}, {}", clock(elapsed), clock(left), format::rate(rate));
    let loss = format!(", loss {:.4}", step.loss);
    let learning_rate = format!(", lr {}]", format::learning_rate(step.learning_rate));
    let full = format!("{times}{loss}{learning_rate}");
    let shorter = format!("{times}{loss}]");
    let tails = [(prefix.as_str(), full.as_str()), (&prefix, &shorter), ("", &shorter)];
    bar_line(&tails, step.step, step.total_steps, "", width)
}

/// How far the evaluation of a split is.
pub(crate) fn evaluation(progress: &v1::EvaluationProgress, width: Option<usize>) -> String {
    let prefix = format!("{} ", evaluating(progress.split()));
    bar_line(&[(&prefix, "rows")], progress.rows_done, progress.rows, "", width)
}

fn evaluating(split: v1::Split) -> &'static str {
    match split {
        v1::Split::Train => "evaluating the training data",
        v1::Split::Validation => "validating",
        v1::Split::Test => "testing",
        v1::Split::Unspecified => "evaluating",
    }
}

/// How much of a file has been sent or fetched.
pub(crate) fn bytes(
    verb: &str,
    name: &str,
    done: u64,
    total: u64,
    elapsed: Duration,
    width: usize,
) -> String {
    let per_second = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let amount = format!("{}/{}", format::bytes(done), format::bytes(total));
    let left = clock(total.saturating_sub(done) as f64 / per_second.max(1.0));
    let tail = format!("[{}<{left}, {}/s]", clock(elapsed.as_secs_f64()), format::bytes(per_second as u64));
    let prefix = format!("{verb} {name} ");
    let short = format!("{verb} ");
    bar_line(&[(&prefix, &tail), (&short, &tail), ("", "")], done, total, &amount, Some(width))
}

/// "prefix 42%|████▏   | 315/750 tail" in the first of the forms that leaves the bar some room, else without a bar.
/// Without a width the line goes into a log: no bar, and nothing cut.
fn bar_line(forms: &[(&str, &str)], done: u64, total: u64, amount: &str, width: Option<usize>) -> String {
    let share = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    let percent = format!("{:>3.0}%", (share * 100.0).floor());
    let counts = format!("{done}/{total}");
    let amount = if amount.is_empty() { counts.as_str() } else { amount };
    let Some(width) = width else {
        let (prefix, tail) = forms.first().copied().unwrap_or_default();
        return format!("{prefix}{percent} {amount} {tail}").trim_end().to_owned();
    };
    for (prefix, tail) in forms {
        let used = measure_text_width(prefix) + percent.len() + amount.len() + measure_text_width(tail) + 4;
        if used + 5 <= width {
            let bar = bar(share, (width - used).min(30));
            return format!("{prefix}{percent}|{bar}| {amount} {tail}").trim_end().to_owned();
        }
    }
    let (_, tail) = forms.last().copied().unwrap_or_default();
    let line = format!("{} {amount} {tail}", percent.trim_start());
    console::truncate_str(line.trim_end(), width, "…").into_owned()
}

/// A bar with eighths of a character.
fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (share * width as f64 * 8.0) as usize;
    let full = (eighths / 8).min(width);
    let mut bar = "█".repeat(full);
    if full < width {
        bar.push(EIGHTHS[eighths % 8]);
        bar.push_str(&" ".repeat(width - full - 1));
    }
    bar
}

/// Lets a line through now and then.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<Instant>,
}

impl Throttle {
    pub(crate) fn passes(&mut self, now: Instant) -> bool {
        let passes = self.last.is_none_or(|last| now.duration_since(last) >= PLAIN_INTERVAL);
        if passes {
            self.last = Some(now);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> v1::StepMetrics {
        v1::StepMetrics {
            step: 315,
            total_steps: 750,
            epoch: 2,
            loss: 0.43217,
            learning_rate: 1.9e-5,
            steps_per_second: 4.5,
            steps_per_epoch: 250,
            step_in_epoch: 65,
            ..Default::default()
        }
    }

    #[test]
    fn a_step_reads_as_tqdm_writes_it() {
        assert_eq!(
            step_line(&step(), 72.0, 4.5, Some(100)),
            "epoch 2/3  42%|██████████              | 315/750 [01:12<01:36, 4.50 steps/s, loss 0.4322, lr 1.9e-5]"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_a_shorter_line_that_never_wraps() {
        for width in 1..120 {
            let line = step_line(&step(), 72.0, 4.5, Some(width));
            assert!(measure_text_width(&line) <= width, "{width}: {line}");
        }
    }

    #[test]
    fn a_replay_shows_the_times_of_the_log() {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        let mut progress = StepProgress::default();
        progress.begin(Some(&at(100)));
        let line = progress.line(&step(), Some(&at(172)), None);
        assert!(line.starts_with("epoch 2/3  42% 315/750 [01:12<01:36, 4.50 steps/s, loss 0.4322"), "{line}");
    }

    #[test]
    fn an_unknown_rate_is_a_question_mark() {
        assert!(step_line(&step(), f64::NAN, 0.0, Some(100)).contains("[?<?, ? steps/s"));
    }

    #[test]
    fn plain_lines_come_every_ten_seconds() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        let passed: Vec<u64> =
            (0..25).filter(|second| throttle.passes(start + Duration::from_secs(*second))).collect();
        assert_eq!(passed, [0, 10, 20]);
    }

    #[test]
    fn bytes_and_rows_have_a_bar_too() {
        assert_eq!(
            bytes("sending", "a.csv", 5 << 20, 10 << 20, Duration::from_secs(2), 80),
            "sending a.csv  50%|█████████         | 5.0 MiB/10.0 MiB [00:02<00:02, 2.5 MiB/s]"
        );
        let progress = v1::EvaluationProgress { split: v1::Split::Validation.into(), rows_done: 1, rows: 4 };
        assert!(evaluation(&progress, Some(80)).starts_with("validating  25%|███████▌"));
    }
}
