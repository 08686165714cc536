//! Jobs that are wrong: refused by flag, file, line and label; and one that diverges.

use hone::v1::hyperparameters::Warmup;
use hone::v1::{ClassWeights, DataSource, Hyperparameters, JobSpec, JobState, LabelWeight, Methods};
use tonic::Code;

use super::{Held, NO_FILE, assert_refused, folder, hyperparameters, quick, train};
use crate::harness::daemon::Daemon;
use crate::harness::encoder::POSITIONS;

fn source(id: &str) -> Option<DataSource> {
    Some(DataSource { dataset_id: id.into(), name: None })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_wrong_value_is_refused_by_its_flag() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let toy = daemon.toy_spec().await;
    let before = Held::by(&daemon).await;
    let beyond = POSITIONS as u32 + 1;
    let number = |change: fn(&mut Hyperparameters)| {
        let mut spec = toy.clone();
        change(hyperparameters(&mut spec));
        spec
    };
    let method = |change: fn(&mut Methods)| {
        let mut spec = toy.clone();
        change(hyperparameters(&mut spec).methods.get_or_insert_default());
        spec
    };
    let long = |length| {
        let mut spec = toy.clone();
        hyperparameters(&mut spec).max_length = Some(length);
        spec
    };
    let cases: [(&str, JobSpec, &[&str]); 19] = [
        (
            "rate 0",
            number(|of| of.learning_rate = Some(0.0)),
            &["`learning_rate`", "greater than 0", "got 0"],
        ),
        (
            "a negative rate",
            number(|of| of.learning_rate = Some(-1e-5)),
            &["`learning_rate`", "got -0.00001"],
        ),
        (
            "a rate that is no number",
            number(|of| of.learning_rate = Some(f64::NAN)),
            &["`learning_rate`", "got NaN"],
        ),
        ("more positions than there are", long(beyond), &["`max_length`", "129", "128 positions"]),
        ("no room for a text", long(2), &["`max_length`", "got 2"]),
        ("no epoch", number(|of| of.epochs = Some(0)), &["`epochs`", "got 0"]),
        ("an empty batch", number(|of| of.batch_size = Some(0)), &["`batch_size`", "got 0"]),
        ("all dropped out", number(|of| of.dropout = Some(1.0)), &["`dropout`", "got 1"]),
        (
            "a warm-up longer than all",
            number(|of| of.warmup = Some(Warmup::WarmupRatio(1.5))),
            &["`warmup_ratio`", "got 1.5"],
        ),
        ("an unknown optimizer", number(|of| of.optimizer = Some(9)), &["`optimizer`", "9"]),
        (
            "a positive label that is none",
            number(|of| of.positive_label = Some("lukewarm".into())),
            &["`positive_label`", "\"lukewarm\"", "\"negative\", \"positive\""],
        ),
        ("an unknown precision", number(|of| of.precision = Some(9)), &["`precision`", "9"]),
        ("an unknown truncation", number(|of| of.truncation = Some(9)), &["`truncation`", "9"]),
        (
            "more frozen layers than there are",
            method(|of| of.freeze_layers = Some(3)),
            &["`freeze_layers`", "3", "only 2 layers"],
        ),
        (
            "more new layers than there are",
            method(|of| of.reinit_layers = Some(3)),
            &["`reinit_layers`", "3", "only 2 layers"],
        ),
        (
            "a layer both frozen and new",
            method(|of| (of.freeze_layers, of.reinit_layers) = (Some(1), Some(2))),
            &["`freeze_layers = 1`", "`reinit_layers = 2`", "overlap"],
        ),
        ("a rate that never decays", method(|of| of.layer_decay = Some(1.5)), &["`layer_decay`", "got 1.5"]),
        (
            "a weight of a label that is none",
            method(|of| {
                let given = vec![LabelWeight { label: "lukewarm".into(), weight: 2.0 }];
                of.class_weights = Some(ClassWeights { balanced: false, given });
            }),
            &["`class_weights`", "\"lukewarm\"", "negative, positive"],
        ),
        (
            "a name that is a path",
            JobSpec { name: Some("../toy".into()), ..toy.clone() },
            &["`name`", "\"../toy\""],
        ),
    ];
    for (case, spec, words) in cases {
        assert_refused(case, daemon.start_job(spec).await, Code::InvalidArgument, words);
        assert_eq!(Held::by(&daemon).await, before, "{case}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_data_that_does_not_fit_is_refused_by_file_line_and_label() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let toy = daemon.toy_spec().await;
    let kept = async |name: &str, rows: &str| daemon.upload(name, rows).await.expect("an upload").id;
    let praise = kept("praise.csv", "text,label\na,positive\nb,positive\nc,positive\n").await;
    let mixed = kept("mixed.csv", "text,label\na,positive\nb,lukewarm\n").await;
    let reviews = kept("reviews.csv", "review,label\na,positive\nb,negative\n").await;
    let before = Held::by(&daemon).await;
    let named = DataSource { dataset_id: NO_FILE.into(), name: Some("toy.csv".into()) };
    let cases: [(&str, JobSpec, Code, &[&str]); 9] = [
        (
            "an unknown training file",
            JobSpec { train: source(NO_FILE), ..toy.clone() },
            Code::NotFound,
            &["`train`", NO_FILE],
        ),
        (
            "an unknown file with a name",
            JobSpec { train: Some(named), ..toy.clone() },
            Code::NotFound,
            &["`train`", "there is no data set", NO_FILE],
        ),
        (
            "an unknown validation file",
            JobSpec { validation: source(NO_FILE), ..toy.clone() },
            Code::NotFound,
            &["`validation`", NO_FILE],
        ),
        (
            "an id that is a path",
            JobSpec { test: source("../hone.db"), ..toy.clone() },
            Code::InvalidArgument,
            &["`test`", "\"../hone.db\"", "SHA-256"],
        ),
        ("a test file alone", JobSpec { train: None, ..toy.clone() }, Code::InvalidArgument, &["`train`"]),
        (
            "one label only",
            JobSpec { train: source(&praise), ..toy.clone() },
            Code::InvalidArgument,
            &["praise.csv", "\"positive\"", "two labels"],
        ),
        (
            "one label in the first rows",
            JobSpec { train_limit: Some(1), ..toy.clone() },
            Code::InvalidArgument,
            &["toy.csv", "\"positive\"", "two labels"],
        ),
        (
            "a label that training lacks",
            JobSpec { validation: source(&mixed), ..toy.clone() },
            Code::InvalidArgument,
            &["mixed.csv, line 3", "\"lukewarm\"", "negative, positive"],
        ),
        (
            "a column that one file lacks",
            JobSpec { test: source(&reviews), ..toy.clone() },
            Code::InvalidArgument,
            &["reviews.csv", "\"text\"", "\"review\", \"label\""],
        ),
    ];
    for (case, spec, code, words) in cases {
        assert_refused(case, daemon.start_job(spec).await, code, words);
        assert_eq!(Held::by(&daemon).await, before, "{case}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_diverges_fails_at_its_step_and_the_next_job_succeeds() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let toy = quick(daemon.toy_spec().await, "toy");
    let before = Held::by(&daemon).await;
    let mut spec = toy.clone();
    let of = hyperparameters(&mut spec);
    (of.learning_rate, of.max_grad_norm) = (Some(1e30), Some(0.0));
    let failed = train(&daemon, spec).await;
    assert_eq!(failed.state(), JobState::Failed);
    let failure = failed.failure.clone().expect("a reason");
    assert_eq!(failure.code, Code::FailedPrecondition as i32, "{failure:?}");
    for word in ["diverged", "at step ", "(epoch 1)", "`learning_rate`"] {
        assert!(failure.message.contains(word), "no {word:?} in {failure:?}");
    }
    assert_eq!((failed.model.clone(), failed.test.clone()), (None, None));

    let next = train(&daemon, toy).await;
    assert_eq!(next.state(), JobState::Succeeded, "{next:?}");
    let held = Held::by(&daemon).await;
    assert_eq!(held.models.iter().map(|model| model.versions.len()).collect::<Vec<_>>(), [1]);
    assert_eq!(held.datasets, before.datasets);
    assert_eq!(daemon.job(&failed.id).await, failed);
    daemon.stop().await;
}
