use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { tokens: 100, count: 4, each: None };

/// Two threads that each compute batches of their own, of 30 tokens.
const TWO: Limits = Limits { tokens: 400, count: 40, each: Some(Each { threads: 2, tokens: 30 }) };

const MODEL: ModelId = ModelId(1);
const NOW: Duration = Duration::ZERO;

fn ms(of: u64) -> Duration {
    Duration::from_millis(of)
}

fn policy(max_wait: u64) -> Policy {
    Policy { max_wait: ms(max_wait), max_batch_delay: Duration::ZERO }
}

fn request(cost: u64) -> Request {
    Request { model: MODEL, priority: 0, deadline: None, count: 1, cost: ms(cost) }
}

/// Queues a request of one sequence, a token of which takes a millisecond.
fn push<T>(queue: &mut Queue<T>, now: u64, request: Request, of: T) -> Result<(), Refused> {
    let place = queue.admit(request, ms(now))?;
    let (tokens, cost) = (request.cost.as_millis() as usize, request.cost);
    queue.push(place, [Sequence { tokens, cost, of }]);
    Ok(())
}

fn next<T>(queue: &mut Queue<T>, now: u64) -> Vec<T> {
    queue.busy.clear();
    taken(queue, now, LIMITS).map(|taken| taken.sequences).unwrap_or_default()
}

fn taken<T>(queue: &mut Queue<T>, now: u64, limits: Limits) -> Option<Taken<T>> {
    match queue.next(ms(now), limits, |_| false) {
        Next::Batch(taken) => Some(taken),
        Next::Delay(_) | Next::Nothing => None,
    }
}

#[test]
fn a_batch_keeps_to_the_budget_and_a_long_sequence_stands_alone() {
    let mut queue = Queue::new(policy(10_000));
    let place = queue.admit(request(631), NOW).unwrap();
    let sequence = |(of, tokens): (usize, usize)| Sequence { tokens, cost: ms(tokens as u64), of };
    queue.push(place, [60, 40, 1, 500, 30].into_iter().enumerate().map(sequence));
    let batches: Vec<_> = (0..5).map(|_| next(&mut queue, 0)).collect();
    assert_eq!(batches, [vec![0, 1], vec![2], vec![3], vec![4], vec![]]);
}

#[test]
fn the_sequences_of_a_request_go_together_and_cheap_requests_go_first() {
    let mut queue = Queue::new(policy(10_000));
    push(&mut queue, 0, request(90), "long").unwrap();
    push(&mut queue, 10, request(20), "short").unwrap();
    push(&mut queue, 89, request(20), "late").unwrap();
    assert_eq!(next(&mut queue, 100), ["short"]);
    assert_eq!(next(&mut queue, 100), ["long"]);
    assert_eq!(next(&mut queue, 100), ["late"]);
}

#[test]
fn a_higher_priority_goes_first_and_a_lower_one_is_not_put_off_for_ever() {
    let mut queue = Queue::new(policy(10_000));
    let of = |priority| Request { priority, ..request(90) };
    push(&mut queue, 0, of(-1), "low").unwrap();
    push(&mut queue, 50, of(0), "plain").unwrap();
    push(&mut queue, 60, of(3), "high").unwrap();
    push(&mut queue, 150, of(0), "later").unwrap();
    let order: Vec<_> = (0..4).flat_map(|_| next(&mut queue, 200)).collect();
    assert_eq!(order, ["high", "plain", "low", "later"]);
}

#[test]
fn a_request_that_would_wait_too_long_is_refused_with_how_long_that_is() {
    let mut queue = Queue::new(policy(100));
    push(&mut queue, 0, request(80), 'a').unwrap();
    push(&mut queue, 0, request(80), 'b').unwrap();
    assert_eq!(push(&mut queue, 0, request(80), 'c'), Err(Refused::Busy(ms(160))));
    assert_eq!(next(&mut queue, 0), ['a']);
    // The batch that is computed counts too, as far as it is not done.
    assert_eq!(push(&mut queue, 0, request(80), 'c'), Err(Refused::Busy(ms(160))));
    push(&mut queue, 61, request(80), 'c').unwrap();
}

#[test]
fn a_request_of_any_size_is_taken_when_nothing_waits() {
    let mut queue = Queue::new(policy(100));
    let impossible = Request { deadline: Some(ms(10)), ..request(5000) };
    push(&mut queue, 0, impossible, 'a').unwrap();
    assert_eq!(push(&mut queue, 0, request(1), 'b'), Err(Refused::Busy(ms(5000))));
}

#[test]
fn a_request_is_not_refused_for_what_goes_behind_it() {
    let mut queue = Queue::new(policy(100));
    push(&mut queue, 0, request(90), 'a').unwrap();
    push(&mut queue, 0, request(90), 'b').unwrap();
    assert_eq!(push(&mut queue, 0, request(90), 'c'), Err(Refused::Busy(ms(180))));
    let high = Request { priority: 10, ..request(90) };
    push(&mut queue, 0, high, 'd').unwrap();
    push(&mut queue, 0, high, 'e').unwrap();
    assert_eq!(push(&mut queue, 0, high, 'f'), Err(Refused::Busy(ms(180))));
    // But no priority makes the queue longer than some times its bound.
    let higher = Request { priority: 1000, ..request(90) };
    push(&mut queue, 0, higher, 'g').unwrap();
    assert_eq!(
        push(&mut queue, 0, Request { priority: 100_000, ..higher }, 'h'),
        Err(Refused::Busy(ms(450)))
    );
}

#[test]
fn a_request_that_cannot_be_answered_before_its_deadline_is_refused() {
    let mut queue = Queue::new(policy(1000));
    push(&mut queue, 0, request(80), 'a').unwrap();
    let until = |cost, deadline| Request { deadline: Some(ms(deadline)), ..request(cost) };
    assert_eq!(push(&mut queue, 0, until(90, 160), 'b'), Err(Refused::Late(ms(170))));
    push(&mut queue, 0, until(90, 170), 'b').unwrap();
    push(&mut queue, 0, until(10, 10), 'c').unwrap();
}

#[test]
fn what_nobody_wants_and_what_comes_too_late_costs_nothing() {
    let mut queue = Queue::new(policy(10_000));
    for i in 0..8 {
        push(&mut queue, 0, request(50), i).unwrap();
    }
    let Next::Batch(batch) = queue.next(NOW, LIMITS, |i| i % 2 == 0) else { panic!("no batch") };
    assert_eq!(batch.sequences, [1, 3]);
    queue.done(batch.number, NOW);
    assert_eq!(queue.next(NOW, LIMITS, |_| true), Next::Nothing);
    let until = |deadline| Request { deadline: Some(ms(deadline)), ..request(50) };
    let mut queue = Queue::new(policy(10_000));
    push(&mut queue, 0, request(50), 0).unwrap();
    push(&mut queue, 0, until(300), 1).unwrap();
    push(&mut queue, 0, until(400), 2).unwrap();
    assert_eq!(next(&mut queue, 260), [0, 2]);
    assert!(queue.is_empty());
    assert_eq!(push(&mut queue, 360, request(50), 3), Ok(()));
}

#[test]
fn a_place_that_is_held_counts_until_it_is_given_back() {
    let mut queue = Queue::<char>::new(policy(100));
    let place = queue.admit(request(200), NOW).unwrap();
    assert_eq!(push(&mut queue, 0, request(300), 'a'), Err(Refused::Busy(ms(200))));
    let urgent = Request { priority: 10, ..request(1) };
    push(&mut queue, 0, urgent, 'b').unwrap();
    queue.release(place);
    push(&mut queue, 0, request(1), 'a').unwrap();
}

#[test]
fn no_more_than_so_many_sequences_wait() {
    let mut queue = Queue::<char>::new(policy(1_000_000));
    let many = Request { count: CAPACITY - 1, ..request(1) };
    let place = queue.admit(many, NOW).unwrap();
    push(&mut queue, 0, request(1), 'a').unwrap();
    assert_eq!(push(&mut queue, 0, request(1), 'b'), Err(Refused::Full(CAPACITY)));
    queue.release(place);
}

#[test]
fn a_batch_is_of_one_model_and_the_models_take_turns_by_rank() {
    let mut queue = Queue::new(policy(10_000));
    let of = |model| Request { model: ModelId(model), ..request(10) };
    push(&mut queue, 0, of(1), "a1").unwrap();
    push(&mut queue, 1, of(2), "b1").unwrap();
    push(&mut queue, 2, of(1), "a2").unwrap();
    push(&mut queue, 3, of(3), "c1").unwrap();
    let order: Vec<_> = (0..3).map(|_| next(&mut queue, 3)).collect();
    assert_eq!(order, [vec!["a1", "a2"], vec!["b1"], vec!["c1"]]);
}

#[test]
fn a_batch_that_is_not_full_waits_only_while_batches_follow_one_another() {
    let delayed = Policy { max_wait: ms(1000), max_batch_delay: ms(5) };
    let mut queue = Queue::new(delayed);
    let delay = |queue: &Queue<char>, now| queue.delay(ms(now), LIMITS);
    push(&mut queue, 0, request(10), 'a').unwrap();
    assert_eq!(delay(&queue, 0), None, "nothing was computed before");
    let first = taken(&mut queue, 0, LIMITS).unwrap();
    assert_eq!(first.sequences, ['a']);
    push(&mut queue, 8, request(10), 'b').unwrap();
    queue.done(first.number, ms(10));
    assert_eq!(delay(&queue, 10), Some(ms(3)), "what waited already waits no longer than the delay in all");
    assert_eq!(delay(&queue, 13), None);
    push(&mut queue, 10, request(95), 'c').unwrap();
    assert_eq!(delay(&queue, 11), None, "the batch is full");
    let second = taken(&mut queue, 11, LIMITS).unwrap();
    assert_eq!(second.sequences, ['b']);
    queue.done(second.number, ms(20));
    assert_eq!(delay(&queue, 26), None, "the device has been idle for longer than the delay");
}

#[test]
fn all_threads_compute_a_sequence_that_waits_alone_and_nothing_beside_it() {
    let mut queue = Queue::new(policy(10_000));
    push(&mut queue, 0, request(20), 'a').unwrap();
    let first = taken(&mut queue, 0, TWO).unwrap();
    assert_eq!((&first.sequences[..], first.threads), (&['a'][..], Threads::All));
    push(&mut queue, 1, request(20), 'b').unwrap();
    push(&mut queue, 1, request(20), 'c').unwrap();
    assert_eq!(taken(&mut queue, 1, TWO), None);
    queue.done(first.number, ms(20));
    let both = taken(&mut queue, 20, TWO).unwrap();
    assert_eq!((both.sequences.len(), both.threads), (2, Threads::All));
}

#[test]
fn each_thread_computes_its_own_where_sequences_of_like_length_wait_for_all_of_them() {
    let mut queue = Queue::new(policy(10_000));
    for (of, cost) in [('a', 20), ('b', 15), ('c', 20), ('d', 80)] {
        push(&mut queue, 0, request(cost), of).unwrap();
    }
    let mut batches = std::iter::from_fn(|| taken(&mut queue, 0, TWO));
    let mut next = || batches.next().map(|taken| (taken.threads, taken.sequences));
    // Cheap ones first, until there are 30 tokens.
    assert_eq!(next(), Some((Threads::Calling, vec!['b', 'a'])));
    assert_eq!(next(), Some((Threads::Calling, vec!['c'])));
    assert_eq!(next(), Some((Threads::Calling, vec!['d'])));
    assert_eq!(next(), None);
}

#[test]
fn a_long_sequence_beside_a_short_one_is_computed_by_all_threads() {
    let mut queue = Queue::new(policy(10_000));
    push(&mut queue, 0, request(100), "long").unwrap();
    push(&mut queue, 0, request(10), "short").unwrap();
    let both = taken(&mut queue, 0, TWO).unwrap();
    assert_eq!((both.sequences, both.threads), (vec!["short", "long"], Threads::All));
}

#[test]
fn short_sequences_are_computed_by_all_threads_until_there_are_enough_for_each() {
    let mut queue = Queue::new(policy(10_000));
    (0..4).for_each(|of| push(&mut queue, 0, request(10), of).unwrap());
    let few = taken(&mut queue, 0, TWO).unwrap();
    assert_eq!((few.sequences.len(), few.threads), (4, Threads::All));
    queue.done(few.number, ms(40));
    (0..6).for_each(|of| push(&mut queue, 50, request(10), of).unwrap());
    for _ in 0..2 {
        let enough = taken(&mut queue, 50, TWO).unwrap();
        assert_eq!((enough.sequences.len(), enough.threads), (3, Threads::Calling));
    }
}

#[test]
fn many_threads_wait_for_one_another_where_they_are_sooner_done_together() {
    let eight = Limits { each: Some(Each { threads: 8, tokens: 30 }), ..TWO };
    let mut queue = Queue::new(policy(10_000));
    (0..24).for_each(|of| push(&mut queue, 0, request(10), of).unwrap());
    let first = taken(&mut queue, 0, eight).unwrap();
    assert_eq!((first.threads, first.sequences.len()), (Threads::Calling, 3));
    let others: Vec<_> = std::iter::from_fn(|| taken(&mut queue, 0, eight)).collect();
    assert_eq!(others.len(), 7);
    others.iter().for_each(|other| queue.done(other.number, ms(230)));
    push(&mut queue, 230, request(40), 24).unwrap();
    // The first takes 10 ms more. Then all threads together need 50 ms; one of them would need 320.
    assert_eq!(taken(&mut queue, 230, eight), None);
    queue.done(first.number, ms(240));
    assert_eq!(taken(&mut queue, 240, eight).unwrap().threads, Threads::All);
}

#[test]
fn a_batch_of_one_thread_delays_others_by_its_part() {
    let mut queue = Queue::new(policy(100));
    push(&mut queue, 0, request(60), 'a').unwrap();
    push(&mut queue, 0, request(60), 'b').unwrap();
    let _both = [taken(&mut queue, 0, TWO).unwrap(), taken(&mut queue, 0, TWO).unwrap()];
    assert_eq!(queue.before(NOW), ms(120));
    assert_eq!(queue.before(ms(60)), ms(60));
}

proptest! {
    #[test]
    fn threads_compute_every_sequence_once_and_never_beside_all_of_them(
        lengths in prop::collection::vec(1usize..300, 0..100), threads in 1usize..5, ends in any::<u64>(),
    ) {
        let limits = Limits { tokens: 1000, count: 64, each: Some(Each { threads, tokens: 96 }) };
        let mut queue = Queue::new(policy(1_000_000));
        for (place, &length) in lengths.iter().enumerate() {
            push(&mut queue, place as u64, request(length as u64), place).unwrap();
        }
        let (mut seen, mut running, mut now) = (Vec::new(), Vec::<Taken<usize>>::new(), 1000);
        loop {
            let next = if running.len() < threads { taken(&mut queue, now, limits) } else { None };
            if let Some(next) = next {
                prop_assert!(next.threads == Threads::Calling || running.is_empty());
                let filled: usize = next.sequences.iter().map(|&i| lengths[i]).sum();
                let most = if next.threads == Threads::All { 1000 } else { 192 };
                prop_assert!(next.sequences.len() == 1 || filled <= most);
                running.push(next);
            } else if running.is_empty() {
                break;
            } else {
                now += 10;
                let done = running.swap_remove((ends.rotate_left(now as u32) % running.len() as u64) as usize);
                queue.done(done.number, ms(now));
                seen.extend(done.sequences);
            }
        }
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..lengths.len()));
        prop_assert!(queue.is_empty() && queue.busy.is_empty());
    }

    #[test]
    fn every_sequence_is_computed_once_within_the_limits(
        lengths in prop::collection::vec(1usize..300, 0..200), tokens in 1usize..600, count in 1usize..64,
    ) {
        let mut queue = Queue::new(policy(1_000_000));
        for (place, &length) in lengths.iter().enumerate() {
            push(&mut queue, place as u64, request(length as u64), place).unwrap();
        }
        let mut seen = Vec::new();
        while let Some(batch) = taken(&mut queue, 0, Limits { tokens, count, each: None }) {
            queue.done(batch.number, NOW);
            let batch = batch.sequences;
            let filled: usize = batch.iter().map(|&i| lengths[i]).sum();
            prop_assert!(batch.len() <= count && (batch.len() == 1 || filled <= tokens));
            seen.extend(batch);
        }
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..lengths.len()));
        prop_assert!(queue.is_empty() && queue.before(Duration::from_secs(1_000_000)) == Duration::ZERO);
    }

    #[test]
    fn a_request_is_overtaken_only_within_its_cost_and_the_head_start_of_the_other(
        requests in prop::collection::vec((0u64..1000, 1u64..100, -3i32..=3), 1..60),
    ) {
        let mut queue = Queue::new(policy(1_000_000));
        let mut requests = requests;
        requests.sort_unstable();
        for (place, &(arrived, cost, priority)) in requests.iter().enumerate() {
            push(&mut queue, arrived, Request { priority, ..request(cost) }, place).unwrap();
        }
        let one = Limits { tokens: 1, count: 1, each: None };
        let mut order = Vec::new();
        while let Some(batch) = taken(&mut queue, 2000, one) {
            queue.done(batch.number, ms(2000));
            order.extend(batch.sequences);
        }
        for (place, &first) in order.iter().enumerate() {
            for &later in &order[place + 1..] {
                let ((came, _, priority), (before, cost, of_it)) = (requests[first], requests[later]);
                let head_start = 100 * i64::from(priority - of_it);
                prop_assert!(came as i64 <= before as i64 + cost as i64 + head_start);
            }
        }
    }
}
