//! Losses over the epochs in a few characters, train and validation on one scale.

use hone::v1;

use crate::output::format::metric;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Characters that a plot may take.
const WIDTH: usize = 28;

/// Three lines, or nothing when there is no course to see: fewer than two epochs, or a loss that is no number.
pub(crate) fn losses(epochs: &[v1::EpochMetrics]) -> Option<String> {
    let of = |metrics: fn(&v1::EpochMetrics) -> Option<&v1::Metrics>| -> Option<Vec<f64>> {
        epochs.iter().map(|epoch| metrics(epoch).map(|metrics| metrics.loss)).collect()
    };
    let (train, validation) = (of(|epoch| epoch.train.as_ref())?, of(|epoch| epoch.validation.as_ref())?);
    let all = || train.iter().chain(&validation).copied();
    if epochs.len() < 2 || !all().all(f64::is_finite) {
        return None;
    }
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(f64::NEG_INFINITY, f64::max);
    let (lowest, loss) =
        validation.iter().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((0, &f64::NAN));
    Some(format!(
        "loss  train  {}  {} → {}\n      val    {}  {} → {}\n      lowest validation loss {} in epoch {}",
        curve(&train, low, high),
        ends(&train).0,
        ends(&train).1,
        curve(&validation, low, high),
        ends(&validation).0,
        ends(&validation).1,
        metric(*loss),
        epochs[lowest].epoch,
    ))
}

fn ends(values: &[f64]) -> (String, String) {
    let text = |value: Option<&f64>| value.copied().map(metric).unwrap_or_default();
    (text(values.first()), text(values.last()))
}

/// Each value as a run of blocks as high as the value; many values share a block by their mean.
fn curve(values: &[f64], low: f64, high: f64) -> String {
    let group = values.len().div_ceil(WIDTH);
    let repeat = (WIDTH / values.len().max(1)).clamp(1, 4);
    let level = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.0 };
        LEVELS[((share * 7.0).round() as usize).min(7)]
    };
    values
        .chunks(group.max(1))
        .map(|group| level(group.iter().sum::<f64>() / group.len() as f64))
        .flat_map(|level| std::iter::repeat_n(level, repeat))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(losses: &[(f64, f64)]) -> Vec<v1::EpochMetrics> {
        let metrics = |loss| Some(v1::Metrics { loss, ..Default::default() });
        let epoch = |(index, &(train, validation)): (usize, &(f64, f64))| v1::EpochMetrics {
            epoch: index as u32 + 1,
            train: metrics(train),
            validation: metrics(validation),
            ..Default::default()
        };
        losses.iter().enumerate().map(epoch).collect()
    }

    #[test]
    fn both_losses_share_a_scale_and_the_lowest_is_named() {
        let text = losses(&epochs(&[(0.7, 0.4), (0.3, 0.35), (0.0, 0.45)])).expect("a plot");
        assert_eq!(
            text,
            "loss  train  ████▄▄▄▄▁▁▁▁  0.7000 → 0.0000\n      val    ▅▅▅▅▅▅▅▅▆▆▆▆  0.4000 → 0.4500\n      lowest validation loss 0.3500 in epoch 2"
        );
    }

    #[test]
    fn one_epoch_or_no_number_gives_no_plot() {
        assert_eq!(losses(&epochs(&[(0.7, 0.4)])), None);
        assert_eq!(losses(&epochs(&[(0.7, 0.4), (f64::NAN, 0.3)])), None);
    }

    #[test]
    fn a_hundred_epochs_still_fit() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert!(curve(&values, 0.0, 99.0).chars().count() <= WIDTH);
    }
}
