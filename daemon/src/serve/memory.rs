//! The policy of what stays loaded, without threads and clocks.

/// A loaded model as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it takes.
    pub bytes: u64,
    /// It is in use, or an operator wants it to stay.
    pub stays: bool,
}

/// The models that leave so that `wanted` bytes more fit into the budget: as few as possible, those first that were not used
/// for longest, which stand first in `held`. `None` where there is no room even without all that may leave.
pub fn leaving(held: &[Held], wanted: u64, budget: u64) -> Option<Vec<usize>> {
    let mut bytes = held.iter().map(|held| held.bytes).fold(wanted, u64::saturating_add);
    let mut leaving = Vec::new();
    let mut candidates = held.iter().enumerate().filter(|(_, held)| !held.stays);
    while bytes > budget {
        let (place, held) = candidates.next()?;
        bytes = bytes.saturating_sub(held.bytes);
        leaving.push(place);
    }
    Some(leaving)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAYS: Held = Held { bytes: 10, stays: true };
    const IDLE: Held = Held { bytes: 10, stays: false };

    #[test]
    fn nothing_leaves_while_there_is_room() {
        assert_eq!(leaving(&[], 10, 10), Some(vec![]));
        assert_eq!(leaving(&[IDLE, STAYS], 10, 30), Some(vec![]));
    }

    #[test]
    fn those_that_were_not_used_for_longest_leave_and_none_that_stays() {
        assert_eq!(leaving(&[STAYS, IDLE, IDLE, IDLE], 15, 40), Some(vec![1, 2]));
        assert_eq!(leaving(&[IDLE, IDLE], 1, 20), Some(vec![0]));
    }

    #[test]
    fn where_what_stays_takes_the_room_there_is_none() {
        assert_eq!(leaving(&[STAYS, IDLE], 11, 20), None);
        assert_eq!(leaving(&[], 11, 10), None);
        assert_eq!(leaving(&[STAYS, STAYS], 1, 20), None);
    }
}
