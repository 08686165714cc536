//! Updates of Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), in place.

use rayon::prelude::*;

use super::Isa;
use super::isa::vectorised;
use super::math::{dot, mul_add};

/// Values that one task takes.
const PIECE: usize = 1 << 14;

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The learning rate of this step.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay of this parameter.
    pub decay: f64,
    /// Whether the decay is decoupled from the gradient (AdamW).
    pub decoupled: bool,
    /// Updates done, this one included.
    pub step: u64,
    /// What gradients are multiplied by first: clipping.
    pub scale: f64,
}

/// The same as the loop needs it.
#[derive(Clone, Copy, Debug)]
pub struct Coefficients {
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    scale: f32,
    step_size: f32,
    inverse_root: f32,
    epsilon: f32,
    shrink: f32,
    added: f32,
}

/// Values of a parameter and of both its moments, all of one length.
pub struct State<'a> {
    /// The parameter.
    pub value: &'a mut [f32],
    /// The mean of its gradients.
    pub m: &'a mut [f32],
    /// The mean of their squares.
    pub v: &'a mut [f32],
}

impl Update {
    /// What does not depend on the value.
    pub fn coefficients(&self) -> Coefficients {
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        Coefficients {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            rest1: (1.0 - self.beta1) as f32,
            rest2: (1.0 - self.beta2) as f32,
            scale: self.scale as f32,
            step_size: (self.rate / correction(self.beta1)) as f32,
            inverse_root: (1.0 / correction(self.beta2).sqrt()) as f32,
            epsilon: self.epsilon as f32,
            shrink: if self.decoupled { (1.0 - self.rate * self.decay) as f32 } else { 1.0 },
            added: if self.decoupled { 0.0 } else { self.decay as f32 },
        }
    }
}

impl Coefficients {
    /// In the order of the fields, as other devices read them: beta1, beta2, 1 - beta1, 1 - beta2, scale, step size, inverse root, epsilon, shrink, added.
    pub fn numbers(&self) -> [f32; 10] {
        let Self { beta1, beta2, rest1, rest2, scale, step_size, inverse_root, epsilon, shrink, added } =
            *self;
        [beta1, beta2, rest1, rest2, scale, step_size, inverse_root, epsilon, shrink, added]
    }

    #[inline(always)]
    fn apply<const FMA: bool>(&self, p: &mut f32, gradient: f32, m: &mut f32, v: &mut f32) {
        let g = mul_add::<FMA>(self.added, *p, gradient * self.scale);
        *m = normal(mul_add::<FMA>(self.rest1, g, self.beta1 * *m));
        *v = normal(mul_add::<FMA>(self.rest2 * g, g, self.beta2 * *v));
        let root = mul_add::<FMA>(v.sqrt(), self.inverse_root, self.epsilon);
        *p = *p * self.shrink - self.step_size * *m / root;
    }
}

/// 0 for a number so small that it has fewer digits: the moment of a row that is not touched any more would
/// otherwise end there, where processors are many times slower.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

/// One update of a parameter by its gradient, on all threads of the current pool.
pub fn update(isa: Isa, state: State<'_>, gradient: &[f32], coefficients: Coefficients) {
    let parameters = state.value.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
    let moments = state.m.par_chunks_mut(PIECE).zip(state.v.par_chunks_mut(PIECE));
    parameters.zip(moments).for_each(|((value, gradient), (m, v))| {
        step(isa, value, gradient, m, v, coefficients);
    });
}

/// One update of a few values on this thread.
pub fn update_here(isa: Isa, state: State<'_>, gradient: &[f32], coefficients: Coefficients) {
    step(isa, state.value, gradient, state.m, state.v, coefficients);
}

/// The updates of a few values whose gradient was 0, one after the other, to the bit as if each had been done in its
/// turn.
pub fn coast(isa: Isa, state: State<'_>, updates: &[Coefficients]) {
    let State { value, m, v } = state;
    let at_rest = m.iter().chain(&*v).all(|moment| *moment == 0.0);
    if at_rest && updates.iter().all(|update| update.added == 0.0) {
        shrink(isa, value, updates);
    } else {
        steps(isa, value, m, v, updates);
    }
}

vectorised! {
    fn step<FMA>(value: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], by: Coefficients) {
        for (((p, g), m), v) in value.iter_mut().zip(gradient).zip(m).zip(v) {
            by.apply::<FMA>(p, *g, m, v);
        }
    }
}

/// Values that stay in registers while updates go over them.
const HELD: usize = 32;

vectorised! {
    fn steps<FMA>(value: &mut [f32], m: &mut [f32], v: &mut [f32], updates: &[Coefficients]) {
        let held = value.chunks_mut(HELD).zip(m.chunks_mut(HELD)).zip(v.chunks_mut(HELD));
        for ((value, m), v) in held {
            if value.len() == HELD {
                let (mut p_held, mut m_held, mut v_held) = ([0f32; HELD], [0f32; HELD], [0f32; HELD]);
                p_held.copy_from_slice(value);
                m_held.copy_from_slice(m);
                v_held.copy_from_slice(v);
                for by in updates {
                    for lane in 0..HELD {
                        by.apply::<FMA>(&mut p_held[lane], 0.0, &mut m_held[lane], &mut v_held[lane]);
                    }
                }
                value.copy_from_slice(&p_held);
                m.copy_from_slice(&m_held);
                v.copy_from_slice(&v_held);
            } else {
                for by in updates {
                    for ((p, m), v) in value.iter_mut().zip(&mut *m).zip(&mut *v) {
                        by.apply::<FMA>(p, 0.0, m, v);
                    }
                }
            }
        }
    }
}

vectorised! {
    fn shrink<FMA>(value: &mut [f32], updates: &[Coefficients]) {
        let _ = FMA;
        for value in value.chunks_mut(4 * HELD) {
            for by in updates {
                value.iter_mut().for_each(|p| *p = *p * by.shrink - 0.0);
            }
        }
    }
}

vectorised! {
    /// `average = decay * average + (1 - decay) * value`.
    pub fn average<FMA>(average: &mut [f32], value: &[f32], decay: f32) {
        for (a, x) in average.iter_mut().zip(value) {
            *a = mul_add::<FMA>(1.0 - decay, *x - *a, *a);
        }
    }
}

vectorised! {
    fn squares<FMA>(x: &[f32]) -> f32 {
        dot::<FMA>(x, x)
    }
}

/// The sum of squares, taken in a fixed order.
pub fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(PIECE).map(|x| f64::from(squares(isa, x))).collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{isas, normal as random};

    fn of(decoupled: bool, step: u64) -> Update {
        Update {
            rate: 1e-2 / step as f64,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.01,
            decoupled,
            step,
            scale: 0.5,
        }
    }

    /// The formulas of the papers, in float64.
    fn formula(update: Update, p: f64, g: f64, m: f64, v: f64) -> [f64; 3] {
        let g = g * update.scale + if update.decoupled { 0.0 } else { update.decay * p };
        let p = if update.decoupled { p * (1.0 - update.rate * update.decay) } else { p };
        let m = update.beta1 * m + (1.0 - update.beta1) * g;
        let v = update.beta2 * v + (1.0 - update.beta2) * g * g;
        let mean = m / (1.0 - update.beta1.powi(update.step as i32));
        let square = v / (1.0 - update.beta2.powi(update.step as i32));
        [p - update.rate * mean / (square.sqrt() + update.epsilon), m, v]
    }

    #[test]
    fn an_update_is_that_of_the_papers() {
        for isa in isas() {
            for decoupled in [false, true] {
                let (mut p, mut m, mut v) = (random(1, 101), vec![0.0; 101], vec![0.0; 101]);
                let mut exact: Vec<[f64; 3]> = p.iter().map(|&p| [f64::from(p), 0.0, 0.0]).collect();
                for step in 1..=5 {
                    let gradient = random(10 + step, 101);
                    let state = State { value: &mut p, m: &mut m, v: &mut v };
                    update(isa, state, &gradient, of(decoupled, step).coefficients());
                    for (exact, g) in exact.iter_mut().zip(&gradient) {
                        *exact = formula(of(decoupled, step), exact[0], f64::from(*g), exact[1], exact[2]);
                    }
                }
                for (found, exact) in p.iter().zip(&exact) {
                    assert!(
                        (f64::from(*found) - exact[0]).abs() < 1e-6,
                        "{isa:?}: {found} is not {}",
                        exact[0]
                    );
                }
            }
        }
    }

    #[test]
    fn updates_without_a_gradient_can_be_made_up_for_to_the_bit() {
        for isa in isas() {
            for (decoupled, touched) in [(true, true), (true, false), (false, true), (false, false)] {
                let (p, m, v) = match touched {
                    true => (random(1, 77), random(2, 77), random(3, 77).iter().map(|x| x * x).collect()),
                    false => (random(1, 77), vec![0.0; 77], vec![0.0; 77]),
                };
                let updates: Vec<Coefficients> =
                    (1..1200).map(|step| of(decoupled, step).coefficients()).collect();
                let mut one_by_one = [p.clone(), m.clone(), v.clone()];
                for by in &updates {
                    let [value, m, v] = &mut one_by_one;
                    update(isa, State { value, m, v }, &[0.0; 77], *by);
                }
                let mut at_once = [p, m, v];
                let [value, m, v] = &mut at_once;
                coast(isa, State { value, m, v }, &updates);
                assert_eq!(at_once, one_by_one, "{isa:?}");
                assert!(at_once.iter().flatten().all(|x| *x == 0.0 || x.is_normal()));
            }
        }
    }
}
