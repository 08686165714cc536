//! Softmax of a row of logits.

/// Turns logits into probabilities and returns the logarithm of the sum of their exponentials.
pub fn softmax(row: &mut [f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0f32;
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
        total += *x;
    }
    row.iter_mut().for_each(|x| *x /= total);
    largest + total.ln()
}
