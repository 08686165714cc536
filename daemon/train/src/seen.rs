//! What the log of a job holds already, so that a run which continues from an earlier position does not tell it twice.
//!
//! The log is ahead of the last saved position by whatever happened until the run was cut off. The continued run computes
//! that again, and gets the same. It cannot skip a number of events, because steps and evaluations are told by the clock:
//! it would tell of other steps than the log does. So it leaves out what the log has by content: steps up to the last one
//! logged, rows of an evaluation up to the last ones logged of it, epochs that are logged, notices whose words are.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::event::{Split, TrainEvent};
use hone_base::cancel::Cancel;

/// How far a job's log is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    prepared: bool,
    /// The last step.
    step: u64,
    /// Epochs that have ended.
    epochs: u32,
    /// Rows of the evaluation after the last of these epochs: of validation while there are epochs to come, else of test.
    validation_rows: u64,
    test_rows: u64,
    test: bool,
    notices: HashSet<String>,
}

impl Seen {
    /// Takes the next event of the log. What a run does not tell, such as changes of the job's state, does not count.
    pub fn add(&mut self, event: &TrainEvent) {
        match event {
            TrainEvent::Prepared(_) => self.prepared = true,
            TrainEvent::Step(step) => self.step = self.step.max(step.step),
            TrainEvent::Evaluation { split: Split::Test, rows_done, .. } => {
                self.test_rows = self.test_rows.max(*rows_done);
            }
            TrainEvent::Evaluation { rows_done, .. } => {
                self.validation_rows = self.validation_rows.max(*rows_done)
            }
            TrainEvent::Epoch(epoch) if epoch.epoch > self.epochs => {
                (self.epochs, self.validation_rows) = (epoch.epoch, 0);
            }
            TrainEvent::Test(_) => self.test = true,
            TrainEvent::Notice { message } => {
                self.notices.insert(message.clone());
            }
            TrainEvent::Epoch(_) => {}
        }
    }

    /// The last optimizer step that was told; 0 before the first.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether the log has a notice with these words.
    pub fn has_notice(&self, message: &str) -> bool {
        self.notices.contains(message)
    }

    /// Whether the log has an event that is told after so many epochs have ended.
    fn has(&self, event: &TrainEvent, epochs: u32) -> bool {
        match event {
            TrainEvent::Prepared(_) => self.prepared,
            TrainEvent::Step(step) => step.step <= self.step,
            TrainEvent::Evaluation { split: Split::Test, rows_done, .. } => {
                self.test || *rows_done <= self.test_rows
            }
            TrainEvent::Evaluation { rows_done, .. } => {
                epochs < self.epochs || epochs == self.epochs && *rows_done <= self.validation_rows
            }
            TrainEvent::Epoch(epoch) => epoch.epoch <= self.epochs,
            TrainEvent::Test(_) => self.test,
            TrainEvent::Notice { message } => self.has_notice(message),
        }
    }
}

impl<'a> FromIterator<&'a TrainEvent> for Seen {
    fn from_iter<I: IntoIterator<Item = &'a TrainEvent>>(events: I) -> Self {
        let mut seen = Self::default();
        events.into_iter().for_each(|event| seen.add(event));
        seen
    }
}

/// Where a run's events go: to its caller, but for those that the log has.
pub(super) struct Emitter<'a> {
    emit: &'a mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    seen: Seen,
    cancel: Cancel,
    epochs: u32,
}

impl<'a> Emitter<'a> {
    /// Of a run that starts after so many epochs.
    pub(super) fn new(
        emit: &'a mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
        seen: Seen,
        cancel: Cancel,
        epochs: u32,
    ) -> Self {
        Self { emit, seen, cancel, epochs }
    }

    /// Tells an event, if it is new; no notice is told twice. Breaks when the run shall end.
    pub(super) fn tell(&mut self, event: TrainEvent) -> ControlFlow<()> {
        let is_known = self.seen.has(&event, self.epochs);
        match &event {
            TrainEvent::Epoch(epoch) => self.epochs = epoch.epoch,
            TrainEvent::Notice { .. } => self.seen.add(&event),
            _ => {}
        }
        if !is_known {
            (self.emit)(event)?;
        }
        if self.cancel.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EpochMetrics, Metrics, StepMetrics, TestMetrics};
    use hone_base::cancel::Reason;

    fn step(step: u64) -> TrainEvent {
        TrainEvent::Step(StepMetrics {
            step,
            total_steps: 6,
            epoch: 1,
            step_in_epoch: step,
            steps_per_epoch: 3,
            loss: 0.5,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            steps_per_second: 1.0,
            tokens_per_second: 1.0,
        })
    }

    fn metrics() -> Metrics {
        Metrics {
            loss: 0.5,
            accuracy: 0.5,
            f1: 0.5,
            recall: 0.5,
            precision: 0.5,
            rows: 1,
            labels: vec![],
            micro: None,
        }
    }

    fn epoch(epoch: u32) -> TrainEvent {
        TrainEvent::Epoch(EpochMetrics {
            epoch,
            epochs: 2,
            train: metrics(),
            validation: metrics(),
            seconds: 1.0,
            train_seconds: 1.0,
            steps_per_second: 1.0,
            tokens_per_second: 1.0,
            best: true,
            validation_loss_rose: false,
            step: 3,
        })
    }

    fn evaluation(split: Split, rows_done: u64) -> TrainEvent {
        TrainEvent::Evaluation { split, rows_done, rows: 100 }
    }

    fn notice(message: &str) -> TrainEvent {
        TrainEvent::Notice { message: message.to_owned() }
    }

    /// Two epochs of three steps, everything told.
    fn whole() -> Vec<TrainEvent> {
        let mut events = vec![notice("few steps")];
        for number in [1, 2] {
            events.extend((1..=3).map(|place| step(3 * (number - 1) + place)));
            events.extend([evaluation(Split::Validation, 40), evaluation(Split::Validation, 80)]);
            events.push(epoch(number as u32));
            events.push(notice(&format!("epoch {number}: one answer")));
        }
        events.extend([evaluation(Split::Test, 50), evaluation(Split::Test, 90)]);
        events.push(TrainEvent::Test(TestMetrics { metrics: metrics(), epoch: 1, seconds: 1.0 }));
        events
    }

    /// What a run tells that computes `events` again, so many epochs being over, when the log has `logged`.
    fn told(logged: &[TrainEvent], events: &[TrainEvent], epochs: u32) -> Vec<TrainEvent> {
        let mut told = vec![];
        let mut emit = |event| {
            told.push(event);
            ControlFlow::Continue(())
        };
        let mut emitter = Emitter::new(&mut emit, logged.iter().collect(), Cancel::default(), epochs);
        for event in events {
            assert!(emitter.tell(event.clone()).is_continue());
        }
        told
    }

    #[test]
    fn a_run_that_begins_again_tells_exactly_what_the_log_lacks_wherever_it_was_cut_off() {
        let whole = whole();
        for logged in 0..=whole.len() {
            assert_eq!(told(&whole[..logged], &whole, 0), whole[logged..], "{logged} events are logged");
        }
    }

    #[test]
    fn a_run_that_continues_after_an_epoch_does_so_too() {
        let whole = whole();
        let position = whole.iter().position(|event| *event == epoch(1)).unwrap() + 1;
        for logged in position..=whole.len() {
            assert_eq!(told(&whole[..logged], &whole[position..], 1), whole[logged..], "{logged} events");
        }
    }

    #[test]
    fn other_steps_than_the_logged_ones_are_told_from_the_last_logged_one_on() {
        let logged = [step(2), step(5)];
        assert_eq!(told(&logged, &[step(1), step(4), step(5), step(6)], 0), [step(6)]);
        let logged = [evaluation(Split::Validation, 60)];
        let again = [evaluation(Split::Validation, 50), evaluation(Split::Validation, 70)];
        assert_eq!(told(&logged, &again, 0), again[1..]);
    }

    #[test]
    fn no_notice_is_told_twice() {
        assert_eq!(told(&[], &[notice("a"), notice("b"), notice("a")], 0), [notice("a"), notice("b")]);
    }

    #[test]
    fn whoever_tells_something_hears_that_the_run_shall_end_even_if_it_was_known() {
        let cancel = Cancel::default();
        let mut emit = |_| ControlFlow::Continue(());
        let mut emitter = Emitter::new(&mut emit, [&step(1)].into_iter().collect(), cancel.clone(), 0);
        assert!(emitter.tell(step(1)).is_continue());
        cancel.ask(Reason::Paused);
        assert!(emitter.tell(step(1)).is_break() && emitter.tell(step(2)).is_break());
    }
}
