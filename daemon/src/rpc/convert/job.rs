//! Jobs, from the domain to the wire.

use super::{Convert, Wire};
use hone::v1;
use prost::Message as _;

use super::all;
use crate::jobs::registry::JobView;

impl Convert<JobView> for v1::Job {
    fn convert(view: JobView) -> Self {
        let JobView { job, results, ahead } = view;
        let mut wire = Self {
            labels_left_out: false,
            state: v1::JobState::convert(job.state).into(),
            spec: Some((&job.spec).wire()),
            created_at: Some(job.created.wire()),
            started_at: job.started.map(Wire::wire),
            ended_at: job.ended.map(Wire::wire),
            failure: job.failure.as_ref().map(Wire::wire),
            epochs: all(&results.epochs),
            test: results.test.as_ref().map(Wire::wire),
            model: results.published.as_ref().map(Wire::wire),
            last_event: job.last_event,
            jobs_ahead: ahead as u32,
            id: job.id,
        };
        fit(&mut wire);
        wire
    }
}

/// Bytes of a job's message at most: clients take 4 MiB unless they say otherwise.
const MAX_BYTES: usize = 3 << 20;

/// Makes a job small enough for any client.
fn fit(job: &mut v1::Job) {
    if job.encoded_len() <= MAX_BYTES {
        return;
    }
    // What one sees at the end is the test; the labels of epochs stand in the log too.
    clear_labels(job.epochs.iter_mut().flat_map(|epoch| [&mut epoch.train, &mut epoch.validation]));
    job.labels_left_out = true;
    if job.encoded_len() > MAX_BYTES {
        leave_labels_out(job);
    }
    let rest = job.encoded_len();
    if rest > MAX_BYTES {
        let mut excess = rest - MAX_BYTES;
        let small = job.epochs.iter().take_while(|epoch| {
            let goes = excess > 0;
            excess = excess.saturating_sub(epoch.encoded_len());
            goes
        });
        let count = small.count();
        job.epochs.drain(..count);
    }
}

/// Leaves the metrics of each label out of a job.
pub fn leave_labels_out(job: &mut v1::Job) {
    let epochs = job.epochs.iter_mut().flat_map(|epoch| [&mut epoch.train, &mut epoch.validation]);
    let found = clear_labels(epochs.chain(job.test.as_mut().map(|test| &mut test.metrics)));
    job.labels_left_out |= found;
}

/// Whether there were any.
fn clear_labels<'a>(of: impl Iterator<Item = &'a mut Option<v1::Metrics>>) -> bool {
    let mut found = false;
    for metrics in of.flatten() {
        found |= !std::mem::take(&mut metrics.labels).is_empty();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(epochs: usize, labels: usize) -> v1::Job {
        let label = v1::LabelMetrics { label: "x".repeat(60), f1: 0.5, rows: 9, ..Default::default() };
        let metrics = Some(v1::Metrics { loss: 0.5, labels: vec![label; labels], ..Default::default() });
        let epoch = v1::EpochMetrics {
            epoch: 1,
            train: metrics.clone(),
            validation: metrics.clone(),
            ..Default::default()
        };
        v1::Job {
            epochs: (1..=epochs as u32)
                .map(|epoch_number| v1::EpochMetrics { epoch: epoch_number, ..epoch.clone() })
                .collect(),
            test: Some(v1::TestMetrics { metrics, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_job_that_fits_is_shown_whole() {
        let mut shown = job(3, 1000);
        fit(&mut shown);
        assert_eq!(shown, job(3, 1000));
    }

    #[test]
    fn of_a_job_with_many_labels_and_epochs_the_labels_of_the_epochs_are_left_out() {
        let mut shown = job(100, 1000);
        fit(&mut shown);
        assert!(shown.encoded_len() <= MAX_BYTES && shown.labels_left_out);
        assert_eq!((shown.epochs.len(), shown.epochs[0].validation.as_ref().unwrap().labels.len()), (100, 0));
        assert_eq!(shown.test.unwrap().metrics.unwrap().labels.len(), 1000);
    }

    #[test]
    fn of_a_job_with_more_epochs_than_fit_the_last_ones_are_shown() {
        let mut shown = job(200_000, 0);
        fit(&mut shown);
        assert!(shown.encoded_len() <= MAX_BYTES && shown.epochs.len() > 1000);
        assert_eq!(shown.epochs.last().unwrap().epoch, 200_000);
    }
}
