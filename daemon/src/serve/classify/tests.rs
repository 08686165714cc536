use std::num::NonZeroUsize;
use std::time::Duration;

use super::*;
use crate::serve::options::{MinScore, Priority};
use crate::serve::queue::Policy;
use crate::serve::testing::{Bench, MAX_LENGTH, input};

async fn ask(serving: &Serving, reference: &str, inputs: Vec<Input>) -> Result<Classified> {
    serving.classify(reference, inputs, &Options::default()).await
}

/// The class of a request's only input.
fn class(answer: Result<Classified>) -> usize {
    answer.unwrap().predictions.remove(0).unwrap().labels[0]
}

#[tokio::test]
async fn a_request_is_answered_in_order_with_the_highest_score_first() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    let inputs = (0..100).map(|i| input(if i % 3 == 0 { "good" } else { "dull film" })).collect();
    let answer = ask(&serving, "reviews", inputs).await.unwrap();
    assert_eq!((answer.version.version, answer.tokens()), (1, 34 + 2 * 66));
    for (place, prediction) in answer.predictions.into_iter().enumerate() {
        let prediction = prediction.unwrap();
        let (class, tokens) = if place % 3 == 0 { (1, 1) } else { (0, 2) };
        assert_eq!((prediction.labels.as_slice(), prediction.tokens), (&[class][..], tokens));
        assert_eq!(prediction.ranked(), [class, 1 - class]);
        assert_eq!(prediction.logits, if class == 1 { [-1.0, 1.0] } else { [1.0, -0.5] });
    }
    bench.models.shut_down();
}

#[tokio::test]
async fn a_number_of_inputs_outside_the_limits_is_an_error_of_the_request() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    for (inputs, words) in [(vec![], "has 0"), (vec![input("a"); 1025], "has 1025")] {
        let error = ask(&serving, "reviews", inputs).await.err().unwrap();
        assert_eq!((error.kind(), error.wrong_field()), (Kind::Invalid, Some("inputs")));
        assert!(error.message().contains(words), "{error}");
    }
}

#[tokio::test]
async fn one_bad_input_has_its_own_error_and_fails_no_other() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    let long = input(&"x".repeat(10 << 20));
    let inputs = || ["good", "", "fail", "panic", "good"].map(input).to_vec();
    let with_long = || [vec![long.clone()], inputs()].concat();
    let answer = ask(&serving, "", with_long()).await.unwrap();
    let [too_long, good, dull, fail, panic, last] = answer.predictions.try_into().unwrap();
    let too_long = too_long.unwrap_err();
    assert_eq!((too_long.kind(), too_long.wrong_field()), (Kind::Invalid, Some("inputs[0].text")));
    assert!(too_long.message().contains("10485760 bytes") && too_long.message().contains("1048576"));
    assert_eq!(
        (good.unwrap().labels, dull.unwrap().labels, last.unwrap().labels),
        (vec![1], vec![0], vec![1])
    );
    assert_eq!(fail.unwrap_err().kind(), Kind::Exhausted);
    assert!(panic.unwrap_err().message().contains("bug in Hone"));

    let seen = bench.seen().len();
    let together = Options { all_or_nothing: true, ..Options::default() };
    let error = serving.classify("", with_long(), &together).await.err().unwrap();
    assert!(error.message().starts_with("inputs[0].text: it has 10485760 bytes"), "{error}");
    assert_eq!(bench.seen().len(), seen, "nothing is computed for a request that fails");
    let error = serving.classify("", inputs(), &together).await.err().unwrap();
    assert_eq!((error.kind(), error.message()), (Kind::Exhausted, "inputs[2]: out of memory"));
    bench.models.shut_down();
}

#[tokio::test]
async fn the_error_of_the_only_input_is_the_requests() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    let requests = ["good", "fail", "panic", "good"].map(|text| ask(&serving, "", vec![input(text)]));
    let [a, fail, panic, b] = requests;
    let (a, fail, panic, b) = tokio::join!(a, fail, panic, b);
    assert_eq!((class(a), class(b)), (1, 1));
    assert_eq!(fail.err().unwrap().kind(), Kind::Exhausted);
    assert!(panic.err().unwrap().message().contains("bug in Hone"));
    bench.models.shut_down();
}

#[tokio::test]
async fn a_caller_says_how_long_texts_are_cut() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    let ask = async |max_length, side, texts: &[&str]| {
        let options = Options { max_length: NonZeroUsize::new(max_length), side, ..Options::default() };
        serving.classify("", texts.iter().map(|text| input(text)).collect(), &options).await
    };
    let text = "good dull dull";
    assert_eq!(class(ask(1, Side::AsModel, &[text]).await), 1);
    assert_eq!(class(ask(1, Side::Right, &[text]).await), 1);
    assert_eq!(class(ask(2, Side::Left, &[text]).await), 0);
    let answer = ask(2, Side::Left, &[text, "good"]).await.unwrap();
    let cut: Vec<(usize, bool)> =
        answer.predictions.into_iter().map(Result::unwrap).map(|it| (it.tokens, it.truncated)).collect();
    assert_eq!(cut, [(2, true), (1, false)]);

    let answer = ask(2, Side::Refuse, &["good dull", text]).await.unwrap();
    let error = answer.predictions[1].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.wrong_field()), (Kind::Invalid, Some("inputs[1].text")));
    assert!(error.message().contains("3 tokens, and at most 2"), "{error}");
    assert!(answer.predictions[0].is_ok());
    let error = ask(MAX_LENGTH + 1, Side::AsModel, &["good"]).await.err().unwrap();
    assert_eq!((error.kind(), error.wrong_field()), (Kind::Invalid, Some("max_length")));
    assert!(error.message().contains("from 1 to 12"), "{error}");
    bench.models.shut_down();
}

#[tokio::test]
async fn a_score_below_the_least_that_is_asked_for_is_no_label() {
    let bench = Bench::new();
    bench.publish("reviews");
    let options = |score| Options { min_score: Some(MinScore::new(score).unwrap()), ..Options::default() };
    for (score, labels) in [(0.5, vec![1]), (0.9, vec![])] {
        let answer = bench.serving().classify("", vec![input("good")], &options(score)).await.unwrap();
        assert_eq!(answer.predictions[0].as_ref().unwrap().labels, labels);
    }
    bench.models.shut_down();
}

#[tokio::test]
async fn texts_that_wait_together_are_computed_side_by_side_and_one_that_panics_stops_no_thread() {
    let bench = Bench::with_threads();
    bench.publish("reviews");
    let serving = bench.serving();
    for _ in 0..3 {
        // Each of the first two is answered only when the other is computed at the same time. With two more behind them,
        // too much waits for a thread to stand still, however late it comes.
        let met = ask(&serving, "", ["meet", "meet", "good", "good"].map(input).to_vec()).await.unwrap();
        assert!(met.predictions.iter().all(Result::is_ok));
        let inputs = ["panic", "good", "panic", "good"].map(input).to_vec();
        let [first, good, second, last] =
            ask(&serving, "", inputs).await.unwrap().predictions.try_into().unwrap();
        assert!(good.is_ok() && last.is_ok());
        assert!([first, second].into_iter().all(|of| of.unwrap_err().message().contains("bug in Hone")));
    }
    bench.models.shut_down();
}

#[tokio::test]
async fn a_request_whose_deadline_passes_ends_then_and_is_not_computed() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    ask(&serving, "", vec![input("good")]).await.unwrap();
    let slow = tokio::spawn({
        let serving = serving.clone();
        async move { ask(&serving, "", vec![input("slow")]).await.map(drop) }
    });
    while !bench.seen().contains(&"slow".to_owned()) {
        tokio::task::yield_now().await;
    }
    let options =
        Options { deadline: Some(Instant::now() + Duration::from_millis(20)), ..Options::default() };
    let error = serving.classify("", vec![input("gone")], &options).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Deadline);
    slow.await.unwrap().unwrap();
    ask(&serving, "", vec![input("good")]).await.unwrap();
    assert!(!bench.seen().contains(&"gone".to_owned()));
    bench.models.shut_down();
}

/// A daemon whose model is busy with one text, while `count` texts wait that take longer than the queue's bound.
async fn overloaded(bench: &Bench, serving: &Serving, count: usize) -> [tokio::task::JoinHandle<usize>; 2] {
    ask(serving, "", vec![input("good")]).await.unwrap();
    let begin = |inputs: Vec<Input>| {
        let serving = serving.clone();
        tokio::spawn(async move { ask(&serving, "", inputs).await.unwrap().predictions.len() })
    };
    let slow = begin(vec![input("slow")]);
    while !bench.seen().contains(&"slow".to_owned()) {
        tokio::task::yield_now().await;
    }
    let waiting = begin(vec![input("good good good"); count]);
    while bench.waiting() < count {
        tokio::task::yield_now().await;
    }
    [slow, waiting]
}

#[tokio::test]
async fn a_call_that_would_wait_too_long_is_refused_at_once_and_says_when_to_come_again() {
    let policy = Policy { max_wait: Duration::from_millis(10), ..Policy::default() };
    let bench = Bench::with_policy(policy);
    bench.publish("reviews");
    let serving = bench.serving();
    let [slow, waiting] = overloaded(&bench, &serving, 400).await;
    let error = ask(&serving, "", vec![input("gone gone gone"); 400]).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(error.message().contains("none shall wait longer than 10 ms (--max-queue-ms)"), "{error}");
    assert!(error.retry().unwrap() >= Duration::from_millis(50));
    assert_eq!((slow.await.unwrap(), waiting.await.unwrap()), (1, 400));
    ask(&serving, "", vec![input("good")]).await.unwrap();
    assert!(!bench.seen().contains(&"gone".to_owned()));
    bench.models.shut_down();
}

#[tokio::test]
async fn a_call_of_higher_priority_is_not_refused_for_those_that_wait_and_goes_before_them() {
    let policy = Policy { max_wait: Duration::from_millis(10), ..Policy::default() };
    let bench = Bench::with_policy(policy);
    bench.publish("reviews");
    let serving = bench.serving();
    let [slow, waiting] = overloaded(&bench, &serving, 60).await;
    let urgent = Options { priority: Priority::new(9).unwrap(), ..Options::default() };
    let urgent = serving.classify("", vec![input("gone")], &urgent).await.unwrap();
    assert_eq!(urgent.predictions.len(), 1);
    assert_eq!((slow.await.unwrap(), waiting.await.unwrap()), (1, 60));
    let place = |word: &str| bench.seen().iter().position(|seen| seen == word).unwrap();
    assert_eq!(place("gone"), place("slow") + 1);
    bench.models.shut_down();
}

#[tokio::test]
async fn a_caller_that_sends_no_more_meanwhile_waits_for_room() {
    let policy = Policy { max_wait: Duration::from_millis(250), ..Policy::default() };
    let bench = Bench::with_policy(policy);
    bench.publish("reviews");
    let serving = bench.serving();
    let [slow, waiting] = overloaded(&bench, &serving, 1000).await;
    let same = || vec![input("good good good"); 1000];
    let stream = serving.for_stream();
    let (refused, patient) = tokio::join!(ask(&serving, "", same()), ask(&stream, "", same()));
    assert_eq!(refused.err().unwrap().kind(), Kind::Exhausted);
    assert_eq!(patient.unwrap().predictions.len(), 1000);
    assert_eq!((slow.await.unwrap(), waiting.await.unwrap()), (1, 1000));
    bench.models.shut_down();
}

#[tokio::test]
async fn a_text_that_comes_again_is_answered_from_memory_by_the_same_version_alone() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving().keeping(1 << 16);
    let first = ask(&serving, "reviews", vec![input("good"), input("dull")]).await.unwrap();
    let again = ask(&serving, "reviews", vec![input("dull"), input("slow"), input("good")]).await.unwrap();
    let of = |answer: &Classified, place: usize| answer.predictions[place].clone().unwrap();
    assert_eq!((of(&again, 0), of(&again, 2)), (of(&first, 1), of(&first, 0)));
    // The first of them made the model warm.
    assert_eq!(bench.seen(), ["", "good", "", "slow"]);
    let shorter = Options { max_length: NonZeroUsize::new(1), ..Options::default() };
    serving.classify("reviews", vec![input("good")], &shorter).await.unwrap();
    bench.publish("reviews");
    ask(&serving, "reviews", vec![input("good")]).await.unwrap();
    assert_eq!(bench.seen().len(), 7);
    // A text that shall not be cut is looked at.
    let whole = Options { side: Side::Refuse, ..Options::default() };
    let long = vec![input(&"good ".repeat(20))];
    ask(&serving, "reviews", long.clone()).await.unwrap();
    assert_eq!(serving.classify("reviews", long, &whole).await.err().unwrap().kind(), Kind::Invalid);
    bench.models.shut_down();
}

#[tokio::test]
async fn a_caller_that_went_away_costs_no_computation() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    ask(&serving, "", vec![input("good")]).await.unwrap();
    let slow = tokio::spawn({
        let serving = serving.clone();
        async move { ask(&serving, "", vec![input("slow")]).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let gone = ask(&serving, "", vec![input("gone")]);
    assert!(tokio::time::timeout(Duration::from_millis(50), gone).await.is_err());
    slow.await.unwrap().unwrap();
    ask(&serving, "", vec![input("good")]).await.unwrap();
    assert!(!bench.seen().contains(&"gone".to_owned()));
    bench.models.shut_down();
}

#[tokio::test]
async fn requests_go_on_while_versions_come_and_go() {
    let bench = Bench::new();
    bench.publish("reviews");
    let serving = bench.serving();
    for round in 0..20 {
        bench.publish("reviews");
        let requests: Vec<_> = (1..=round % 6 + 1)
            .map(|version| {
                let serving = serving.clone();
                tokio::spawn(async move {
                    ask(&serving, &format!("reviews@{version}"), vec![input("good")]).await
                })
            })
            .collect();
        for request in requests {
            request.await.unwrap().unwrap();
        }
    }
    assert_eq!(ask(&serving, "reviews", vec![input("good")]).await.unwrap().version.version, 21);
    bench.models.shut_down();
}
