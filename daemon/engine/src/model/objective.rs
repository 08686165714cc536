//! The loss, as a function of logits on the host, and its gradient. Computed in float64.
//!
//! With `p` the probabilities of a row and `q` its target, the terms are
//!
//! - one label a row: `-sum_c w_c q_c (1 - p_c)^gamma log p_c`, where `q = (1 - e) onehot + e / L`. The sum over rows is
//!   divided by the sum of the weights of the rows' labels, as `torch.nn.CrossEntropyLoss` with `weight` and
//!   `label_smoothing` does.
//! - several labels a row: `-sum_c [w_c q_c (1 - p_c)^gamma log p_c + (1 - q_c) p_c^gamma log(1 - p_c)]`, where
//!   `q = (1 - e) y + e / 2`, and the mean is taken over rows and labels, as `torch.nn.BCEWithLogitsLoss` with
//!   `pos_weight` does.
//!
//! Label smoothing is Szegedy et al. 2016, the focal factor Lin et al. 2017, R-Drop Wu et al. 2021.

use crate::targets::Targets;

/// How many labels a row has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// One: softmax over the labels.
    #[default]
    SingleLabel,
    /// Any number: a sigmoid for each label.
    MultiLabel,
}

/// What training makes small.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objective {
    /// How many labels a row has.
    pub kind: Kind,
    /// Share of the target that is spread over all labels.
    pub smoothing: f64,
    /// How much each label counts: in a row's loss, or, with several labels a row, in that of its positives.
    pub weights: Option<Vec<f32>>,
    /// Multiplies what is already right by less: `(1 - p)^gamma`.
    pub focal_gamma: Option<f64>,
    /// Every example stands in the batch twice, and this times the divergence of both answers is added.
    pub r_drop: Option<f64>,
}

/// A loss and how to lower it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// The mean over the batch.
    pub mean: f64,
    /// Its derivative by each logit, row by row.
    pub gradient: Vec<f32>,
}

impl Objective {
    /// Plain cross-entropy, or its binary form.
    pub fn plain(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// How often an example stands in the batch.
    pub fn passes(&self) -> usize {
        if self.r_drop.is_some() { 2 } else { 1 }
    }

    /// The loss of a batch. `logits` are `[B, L]`, row by row, with `B` targets; with R-Drop `[2 B, L]`, where rows `i`
    /// and `B + i` are the same example.
    pub fn evaluate(&self, logits: &[f32], targets: &Targets) -> Loss {
        let (passes, examples) = (self.passes(), targets.len());
        let labels = logits.len() / (passes * examples).max(1);
        if labels == 0 {
            return Loss { mean: 0.0, gradient: Vec::new() };
        }
        let logits: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
        let mut gradient = vec![0.0; logits.len()];
        let norm = self.norm(targets, labels) * passes as f64;
        let mut mean = 0.0;
        for (row, (logits, gradient)) in logits.chunks(labels).zip(gradient.chunks_mut(labels)).enumerate() {
            mean += match targets {
                Targets::Classes(classes) => {
                    let class = classes.get(row % examples).map_or(0, |&class| class as usize);
                    self.one_label(logits, class, gradient)
                }
                Targets::Sets(sets) => {
                    self.several_labels(logits, sets.get(row % examples).map_or(&[], Vec::as_slice), gradient)
                }
            } / norm;
            gradient.iter_mut().for_each(|g| *g /= norm);
        }
        if let Some(alpha) = self.r_drop {
            let (first, second) = logits.split_at(examples * labels);
            let (first_gradient, second_gradient) = gradient.split_at_mut(examples * labels);
            let pairs = first.chunks(labels).zip(second.chunks(labels));
            let gradients = first_gradient.chunks_mut(labels).zip(second_gradient.chunks_mut(labels));
            let scale = match self.kind {
                Kind::SingleLabel => alpha / examples as f64,
                Kind::MultiLabel => alpha / (examples * labels) as f64,
            };
            for ((a, b), (a_gradient, b_gradient)) in pairs.zip(gradients) {
                mean += scale
                    * match self.kind {
                        Kind::SingleLabel => softmax_divergence(a, b, scale, a_gradient, b_gradient),
                        Kind::MultiLabel => sigmoid_divergence(a, b, scale, a_gradient, b_gradient),
                    };
            }
        }
        Loss { mean, gradient: gradient.into_iter().map(|g| g as f32).collect() }
    }

    /// What the sum over one pass is divided by.
    fn norm(&self, targets: &Targets, labels: usize) -> f64 {
        match targets {
            Targets::Classes(classes) => classes.iter().map(|&class| self.weight(class as usize)).sum(),
            Targets::Sets(sets) => (sets.len() * labels) as f64,
        }
    }

    fn weight(&self, class: usize) -> f64 {
        self.weights.as_ref().and_then(|weights| weights.get(class)).map_or(1.0, |&weight| weight.into())
    }

    /// The loss of a row with one label; writes its gradient.
    fn one_label(&self, logits: &[f64], class: usize, gradient: &mut [f64]) -> f64 {
        let log_p = log_softmax(logits);
        let gamma = self.focal_gamma.unwrap_or(0.0);
        let spread = self.smoothing / logits.len() as f64;
        let mut loss = 0.0;
        // First by log p_c, ...
        for (label, (&log_p, gradient)) in log_p.iter().zip(gradient.iter_mut()).enumerate() {
            let target = spread + if label == class { 1.0 - self.smoothing } else { 0.0 };
            let (p, rest) = (log_p.exp(), -log_p.exp_m1());
            let factor = rest.powf(gamma);
            // d (1 - p)^gamma / d log p, times log p; its limit at p = 1 is 0.
            let inner =
                if gamma == 0.0 || rest == 0.0 { 0.0 } else { gamma * rest.powf(gamma - 1.0) * p * log_p };
            let weight = self.weight(label) * target;
            loss -= weight * factor * log_p;
            *gradient = -weight * (factor - inner);
        }
        // ... then through d log p_c / d z_k = [c = k] - p_k.
        let total: f64 = gradient.iter().sum();
        gradient.iter_mut().zip(&log_p).for_each(|(gradient, log_p)| *gradient -= log_p.exp() * total);
        loss
    }

    /// The loss of a row with any number of labels; writes its gradient.
    fn several_labels(&self, logits: &[f64], set: &[u32], gradient: &mut [f64]) -> f64 {
        let gamma = self.focal_gamma.unwrap_or(0.0);
        let mut loss = 0.0;
        for (label, (&x, gradient)) in logits.iter().zip(gradient).enumerate() {
            let is_set = set.iter().any(|&class| class as usize == label);
            let target = self.smoothing / 2.0 + if is_set { 1.0 - self.smoothing } else { 0.0 };
            let (log_p, log_rest) = (log_sigmoid(x), log_sigmoid(-x));
            let (p, rest) = (log_p.exp(), log_rest.exp());
            let positive = self.weight(label) * target * rest.powf(gamma);
            let negative = (1.0 - target) * p.powf(gamma);
            loss -= positive * log_p + negative * log_rest;
            *gradient = negative * (p - gamma * rest * log_rest) - positive * (rest - gamma * p * log_p);
        }
        loss
    }
}

/// The plain cross-entropy of a row with one label.
pub fn cross_entropy(logits: &[f32], class: usize) -> f64 {
    let logits: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    log_softmax(&logits).get(class).map_or(0.0, |log_p| -log_p)
}

/// The plain binary cross-entropy of a row with any number of labels: the mean over labels.
pub fn binary_cross_entropy(logits: &[f32], set: &[u32]) -> f64 {
    let loss = |(label, &x): (usize, &f32)| {
        let is_set = set.iter().any(|&class| class as usize == label);
        -log_sigmoid(if is_set { x.into() } else { -f64::from(x) })
    };
    logits.iter().enumerate().map(loss).sum::<f64>() / logits.len().max(1) as f64
}

/// The probability that a label is set.
pub fn sigmoid(x: f32) -> f32 {
    log_sigmoid(x.into()).exp() as f32
}

/// Half of KL(p || q) + KL(q || p), softmax over rows; adds its gradients times `scale`.
fn softmax_divergence(
    a: &[f64],
    b: &[f64],
    scale: f64,
    a_gradient: &mut [f64],
    b_gradient: &mut [f64],
) -> f64 {
    let (a, b) = (log_softmax(a), log_softmax(b));
    let mean =
        |of: &[f64]| -> f64 { of.iter().zip(a.iter().zip(&b)).map(|(p, (a, b))| p.exp() * (a - b)).sum() };
    let (of_a, of_b) = (mean(&a), mean(&b));
    for ((a, b), (a_gradient, b_gradient)) in a.iter().zip(&b).zip(a_gradient.iter_mut().zip(b_gradient)) {
        let (p, q, difference) = (a.exp(), b.exp(), a - b);
        *a_gradient += scale * (p * (difference - of_a) + p - q) / 2.0;
        *b_gradient += scale * (q * (of_b - difference) + q - p) / 2.0;
    }
    (of_a - of_b) / 2.0
}

/// Half of KL(p || q) + KL(q || p) of two coins for each label, summed: (p - q) (x - y) / 2 with logits x and y; adds its
/// gradients times `scale`.
fn sigmoid_divergence(
    a: &[f64],
    b: &[f64],
    scale: f64,
    a_gradient: &mut [f64],
    b_gradient: &mut [f64],
) -> f64 {
    let mut sum = 0.0;
    for ((&x, &y), (a_gradient, b_gradient)) in a.iter().zip(b).zip(a_gradient.iter_mut().zip(b_gradient)) {
        let p = |x: f64| (log_sigmoid(x).exp(), log_sigmoid(-x).exp());
        let ((p, p_rest), (q, q_rest)) = (p(x), p(y));
        sum += (p - q) * (x - y) / 2.0;
        *a_gradient += scale * (p * p_rest * (x - y) + p - q) / 2.0;
        *b_gradient += scale * (q * q_rest * (y - x) + q - p) / 2.0;
    }
    sum
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|x| x - log_sum).collect()
}

/// Neither end overflows: min(x, 0) - log(1 + exp(-|x|)).
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests;
