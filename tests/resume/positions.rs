//! Positions that are damaged, of another version or of another job, and those that a run leaves.

use std::path::Path;

use hone_base::error::Kind;
use hone_train::Outcome;
use hone_train::event::{Split, TrainEvent};
use hone_train::methods::Methods;

use super::{assert_same, go_on, pause, steps, whole, with};
use crate::training::newest_position;

/// What is told besides, because a position could not be used.
fn take_notices(log: &mut Vec<TrainEvent>, words: &str) -> Vec<String> {
    let is_one =
        |event: &mut TrainEvent| matches!(event, TrainEvent::Notice { message } if message.contains(words));
    let taken = log.extract_if(.., is_one);
    taken
        .map(|event| if let TrainEvent::Notice { message } = event { message } else { String::new() })
        .collect()
}

#[test]
fn a_damaged_position_is_refused_and_the_one_before_is_taken() {
    let job = with(Methods::default(), |spec| spec.hyperparameters.checkpoint_every = steps(1));
    let whole = whole(&job);
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("half of the tensors", |position| {
            let path = position.join("training.safetensors");
            let bytes = std::fs::read(&path).expect("tensors");
            std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("a file");
        }),
        ("one bit", |position| {
            let path = position.join("training.safetensors");
            let mut bytes = std::fs::read(&path).expect("tensors");
            *bytes.last_mut().expect("a byte") ^= 1;
            std::fs::write(&path, bytes).expect("a file");
        }),
        ("an empty position", |position| {
            std::fs::write(position.join("position.json"), "").expect("a file");
        }),
        ("no digests", |position| {
            std::fs::remove_file(position.join("SHA256SUMS")).expect("a file");
        }),
        ("no files", |position| {
            std::fs::remove_dir_all(position).expect("a folder");
            std::fs::create_dir(position).expect("a folder");
        }),
    ];
    for (name, damage) in damages {
        for generations in [1, 2] {
            let workspace = job.workspace(&format!("{name} {generations}"));
            // In the second epoch, with the first one's checkpoint.
            let mut log =
                pause(&job, &workspace, |event| matches!(event, TrainEvent::Step(step) if step.step == 9));
            let newest = newest_position(&workspace);
            damage(&newest);
            if generations == 2 {
                let before: u64 = newest.file_name().unwrap().to_str().unwrap().parse().expect("a number");
                damage(&newest.with_file_name((before - 1).to_string()));
            }
            std::fs::create_dir(workspace.join("state/new")).expect("left over from a crash");
            let finished = go_on(&job, &workspace, &mut log, usize::MAX).expect("an end");
            let notices = take_notices(&mut log, "a saved position cannot be used");
            assert_eq!(notices.len(), generations, "{name}: {notices:?}");
            let from = if generations == 1 { "from step " } else { "from the beginning" };
            assert!(notices.iter().all(|notice| notice.contains(from)), "{name}: {notices:?}");
            assert_same(name, &whole, &(finished, log));
        }
    }
}

#[test]
fn a_position_whose_checkpoint_is_gone_is_refused() {
    let job = with(Methods::default(), |_| {});
    let whole = whole(&job);
    let workspace = job.workspace("gone");
    let is_test = |event: &TrainEvent| matches!(event, TrainEvent::Evaluation { split: Split::Test, .. });
    let mut log = pause(&job, &workspace, is_test);
    for epoch in [1, 2] {
        let _ = std::fs::remove_dir_all(workspace.join(format!("epoch-{epoch}")));
    }
    let finished = go_on(&job, &workspace, &mut log, usize::MAX).expect("an end");
    let notices = take_notices(&mut log, "a saved position cannot be used");
    assert!(!notices.is_empty() && notices[0].contains("model.safetensors"), "{notices:?}");
    assert_same("gone", &whole, &(finished, log));
}

#[test]
fn a_position_of_an_earlier_version_is_not_taken_and_of_another_job_is_an_error() {
    let job = with(Methods::default(), |_| {});
    let workspace = job.workspace("earlier");
    std::fs::create_dir(workspace.join("state")).expect("a folder");
    std::fs::write(workspace.join("state/position.json"), r#"{"format": 1}"#).expect("a file");
    let mut log = vec![];
    let finished = go_on(&job, &workspace, &mut log, usize::MAX).expect("an end");
    assert_eq!(take_notices(&mut log, "another version of Hone").len(), 1);
    assert_same("earlier", &whole(&job), &(finished, log));
    assert!(!workspace.join("state/position.json").exists());
    let other = job.with(|spec| spec.hyperparameters.seed = 43);
    let error = other.run(&workspace, 2).0.expect_err("another job's position");
    assert_eq!(error.kind(), Kind::Precondition);
    assert!(error.message().ends_with("belongs to another job"), "{error}");
}

#[test]
fn a_disk_that_takes_no_position_is_told_once_and_the_job_succeeds() {
    let job = with(Methods::default(), |spec| spec.hyperparameters.checkpoint_every = steps(1));
    let workspace = job.workspace("full");
    std::fs::write(workspace.join("state"), "no folder").expect("a file");
    let (outcome, mut events) = job.run(&workspace, 2);
    let Ok(Outcome::Finished(finished)) = outcome else { panic!("{outcome:?}") };
    let notices = take_notices(&mut events, "the position could not be saved");
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(finished.weights_sha256, whole(&job).0.weights_sha256);
}

#[test]
fn a_finished_run_leaves_its_checkpoint_and_two_positions_at_most() {
    let job = with(Methods::default(), |spec| spec.hyperparameters.checkpoint_every = steps(1));
    let (finished, _) = whole(&job);
    let workspace = finished.folder.parent().expect("a workspace");
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(workspace), [format!("epoch-{}", finished.epoch.epoch), "state".to_owned()]);
    assert_eq!(names(&workspace.join("state")).len(), 2);
}
