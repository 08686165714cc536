//! Tests of downloads that do not go through at once.

use super::*;
use crate::testing::{Hub, Served, name, weights, whole_repository};
use hone_base::cancel::Reason;
use hone_base::error::Kind;

#[test]
fn a_download_that_falls_silent_is_given_up_and_the_next_try_goes_on_from_there() {
    let mut files = whole_repository();
    files.insert("model.safetensors", Served { silent_after: Some(4), ..weights("the weights") });
    let hub = Hub::start(files);
    let cache = tempfile::tempdir().unwrap();
    let config = HubConfig { patience: Duration::from_millis(500), ..hub.config(cache.path()) };
    let error = config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.message().contains("model.safetensors: silence for 0.5 s"), "{error}");
    hub.asked();
    let folder = config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| asked.ends_with("/model.safetensors 4-")), "{asked:?}");
}

#[test]
fn what_an_earlier_download_left_behind_does_no_harm() {
    let hub = Hub::start(whole_repository());
    let cache = tempfile::tempdir().unwrap();
    let config = hub.config(cache.path());
    let folder = config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    let weights = folder.join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    for left_over in ["the w", "the weights", "the w8ights", "the weights and more"] {
        fs::remove_file(cache.path().join("models--org--name/refs/main")).unwrap();
        fs::write(&blob, "x").unwrap();
        fs::write(blob.with_extension("incomplete"), left_over).unwrap();
        config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
        assert_eq!(fs::read_to_string(&weights).unwrap(), "the weights");
    }
}

/// What comes of a download with a patience that no test has, when `hub` falls silent and the token is asked.
fn cancelled(hub: &Hub, text: &str, cancel: &Cancel, cache: &Path) -> Error {
    let config = HubConfig { patience: Duration::from_secs(3600), ..hub.config(cache) };
    let error = config.resolve(&name(text), cancel, &mut |_| ()).unwrap_err();
    hub.wait_for_hanging_up();
    error
}

#[test]
fn a_download_that_shall_end_hangs_up_while_it_waits_for_an_answer() {
    let cancel = Cancel::default();
    let hub = Hub::start_with(whole_repository(), cancel.clone());
    let cache = tempfile::tempdir().unwrap();
    let error = cancelled(&hub, "org/silent", &cancel, cache.path());
    assert_eq!(error.kind(), Kind::Cancelled, "{error}");
    assert!(!cache.path().join("models--org--silent").exists());
}

#[test]
fn a_download_that_shall_end_hangs_up_in_the_middle_of_a_file_and_keeps_what_came() {
    let mut files = whole_repository();
    files.insert("model.safetensors", Served { silent_after: Some(4), ..weights("the weights") });
    let hub = Hub::start(files);
    let cache = tempfile::tempdir().unwrap();
    let etag = weights("the weights").etag.replace('"', "");
    let incomplete = Repository::new(cache.path(), "org/name").incomplete(&etag);
    let cancel = Cancel::default();
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            while fs::metadata(&incomplete).map_or(0, |file| file.len()) < 4 {
                thread::sleep(Duration::from_millis(10));
            }
            cancel.ask(Reason::Cancelled);
        });
        cancelled(&hub, "org/name", &cancel, cache.path())
    });
    assert_eq!(error.kind(), Kind::Cancelled, "{error}");
    hub.asked();
    let folder =
        hub.config(cache.path()).resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| asked.ends_with("/model.safetensors 4-")), "{asked:?}");
}

#[test]
fn a_download_that_another_process_makes_is_awaited_until_this_one_shall_end() {
    let hub = Hub::start(whole_repository());
    let cache = tempfile::tempdir().unwrap();
    let config = hub.config(cache.path());
    let etag = weights("the weights").etag.replace('"', "");
    let repository = Repository::new(cache.path(), "org/name");
    let lock = repository.try_lock(&etag).unwrap().unwrap();
    let cancel = Cancel::default();
    let mut told = vec![];
    let error = config.resolve(&name("org/name"), &cancel, &mut |words: String| {
        if words.contains("is locked") {
            cancel.ask(Reason::Cancelled);
        }
        told.push(words);
    });
    assert_eq!(error.unwrap_err().kind(), Kind::Cancelled);
    let waiting = told.last().unwrap();
    assert!(waiting.starts_with("waiting for model.safetensors"), "{waiting}");
    assert!(waiting.contains(repository.lock_file(&etag).to_str().unwrap()), "{waiting}");
    drop(lock);
    // The other one is done: nothing is left but to link it.
    fs::write(repository.blob(&etag), "the weights").unwrap();
    hub.asked();
    let folder = config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
    let asked = hub.asked();
    assert!(!asked.iter().any(|asked| asked.ends_with("/model.safetensors 0-")), "{asked:?}");
}
