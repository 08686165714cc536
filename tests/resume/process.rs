//! A process that is killed, and the next one, which continues.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hone_train::event::TrainEvent;
use hone_train::methods::Methods;
use hone_train::{Control, Outcome, Seen};

use super::{whole, with, without_times};

/// The events in a file, one a line; what was cut off in the last line is none.
fn read_log(path: &Path) -> Vec<TrainEvent> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

const FOLDER: &str = "HONE_TEST_RESUME_FOLDER";

/// Goes on with a job until it is killed; started by the test below.
#[test]
#[ignore = "a process that another test starts and kills"]
fn a_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let job = with(Methods { ema_decay: Some(0.9), ..Methods::default() }, |_| {});
    let path = Path::new(&folder).join("log");
    let log = read_log(&path);
    let mut file = std::fs::File::create(path.with_extension("new")).expect("a file");
    for event in &log {
        writeln!(file, "{}", serde_json::to_string(event).expect("json")).expect("a line");
    }
    std::fs::rename(path.with_extension("new"), &path).expect("a file");
    let workspace = Path::new(&folder).join("workspace");
    std::fs::create_dir_all(&workspace).expect("a workspace");
    let control = Control { seen: Seen::from_iter(&log), throttle: Duration::ZERO, ..Control::default() };
    let outcome = job.run_with(&workspace, 2, control, &mut |event| {
        writeln!(file, "{}", serde_json::to_string(&event).expect("json")).expect("a line");
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, Ok(Outcome::Finished(_))), "{outcome:?}");
}

#[test]
fn a_process_that_is_killed_again_and_again_leaves_what_the_next_one_continues_from() {
    let job = with(Methods { ema_decay: Some(0.9), ..Methods::default() }, |_| {});
    let whole = whole(&job);
    let folder = job.folder.path();
    let (log, mut kills) = (folder.join("log"), 0);
    loop {
        let before = read_log(&log).len();
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "resume::process::a_process_that_is_killed", "--ignored"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("a process");
        let status = loop {
            if let Some(status) = child.try_wait().expect("a status") {
                break Some(status);
            }
            if read_log(&log).len() >= before + 3 {
                break None;
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        match status {
            Some(status) => {
                assert!(status.success(), "{status}");
                break;
            }
            None => {
                child.kill().expect("a kill");
                child.wait().expect("an end");
                kills += 1;
            }
        }
    }
    assert!(kills >= 2, "{kills} kills");
    assert_eq!(without_times(&read_log(&log)), without_times(&whole.1));
    let kept = folder.join(format!("workspace/epoch-{}/model.safetensors", whole.0.epoch.epoch));
    let bytes = std::fs::read(kept).expect("weights");
    assert!(bytes == std::fs::read(whole.0.folder.join("model.safetensors")).expect("weights"));
}
