use std::net::TcpListener;

use super::*;
use crate::folder::is_complete;
use crate::testing::{COMMIT, Files, Hub, Served, name, served, weights, whole_repository};
use hone_base::error::Kind;

fn refusal(hub: &Hub, text: &str) -> Error {
    let cache = tempfile::tempdir().unwrap();
    let config = hub.config(cache.path());
    let error = config.resolve(&name(text), &Cancel::default(), &mut |_| ()).unwrap_err();
    assert_eq!(config.find_local(&name(text)).unwrap(), None);
    error
}

#[test]
fn a_model_is_downloaded_once_and_then_found_without_the_hub() {
    let hub = Hub::start(whole_repository());
    let cache = tempfile::tempdir().unwrap();
    let config = hub.config(cache.path());
    let mut told = vec![];
    let folder =
        config.resolve(&name("org/name"), &Cancel::default(), &mut |words| told.push(words)).unwrap();
    assert_eq!(folder, cache.path().join("models--org--name/snapshots").join(COMMIT));
    assert!(is_complete(&folder));
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
    let url = format!("{}/org/name/resolve/{COMMIT}/model.safetensors", hub.endpoint);
    assert!(told.contains(&format!("downloading model.safetensors (0.0 MB) from {url}")), "{told:?}");
    // The branch is asked for once; everything else is of its commit.
    let asked = hub.asked();
    assert_eq!(asked.iter().filter(|request| request.ends_with("/main")).count(), 1, "{asked:?}");
    let blobs = fs::read_dir(cache.path().join("models--org--name/blobs")).unwrap();
    assert!(blobs.into_iter().all(|blob| blob.unwrap().path().extension().is_none()));

    assert_eq!(config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap(), folder);
    assert_eq!(
        config.resolve(&name(&format!("org/name@{COMMIT}")), &Cancel::default(), &mut |_| ()).unwrap(),
        folder
    );
    assert_eq!(hub.asked(), Vec::<String>::new());

    // Another branch of the same commit costs questions, but no bytes.
    assert_eq!(config.resolve(&name("org/name@v1"), &Cancel::default(), &mut |_| ()).unwrap(), folder);
    let asked = hub.asked();
    assert!(asked.iter().all(|asked| asked.contains("/api/") || asked.ends_with(" 0-0")), "{asked:?}");
    assert!(config.find_local(&name("org/name@v1")).unwrap().is_some());
}

#[test]
fn revisions_with_slashes_and_renamed_repositories_are_found() {
    let hub = Hub::start(whole_repository());
    for text in ["org/name@refs/pr/1", "old/name"] {
        let cache = tempfile::tempdir().unwrap();
        let config = hub.config(cache.path());
        let folder = config.resolve(&name(text), &Cancel::default(), &mut |_| ()).unwrap();
        assert_eq!(config.find_local(&name(text)).unwrap(), Some(folder));
    }
}

#[test]
fn what_the_hub_does_not_give_is_told_by_its_name() {
    let hub = Hub::start(whole_repository());
    for (text, kind, expected) in [
        ("org/none", Kind::NotFound, "there is no org/none at http://127.0.0.1"),
        ("org/name@v9", Kind::NotFound, "has no revision \"v9\""),
        ("org/gated", Kind::Precondition, "set HF_TOKEN"),
        ("org/busy", Kind::Unavailable, "it answers status 503; try again, or pass the folder"),
        ("org/busy", Kind::Unavailable, "cannot download org/busy from http://127.0.0.1"),
        ("org/circle", Kind::Unavailable, "it redirects more than 10 times"),
        ("org/other", Kind::Unavailable, "does not answer like a Hugging Face hub"),
        ("org/odd", Kind::Unavailable, "does not answer like a Hugging Face hub"),
    ] {
        let error = refusal(&hub, text);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(expected), "{error}");
    }
}

#[test]
fn a_repository_without_safetensors_or_tokenizer_is_refused() {
    let without = |file: &str| {
        let mut files = whole_repository();
        files.remove(file);
        refusal(&Hub::start(files), "org/name")
    };
    for (file, expected) in [
        ("config.json", "org/name has no config.json"),
        ("model.safetensors", "org/name has no model.safetensors"),
        ("tokenizer.json", "org/name has no tokenizer.json or vocab.txt"),
    ] {
        let error = without(file);
        assert_eq!(error.kind(), Kind::Precondition, "{error}");
        assert!(error.message().contains(expected), "{error}");
        assert!(error.message().contains("pass the folder"), "{error}");
    }
}

const INDEX_TEXT: &str =
    r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;

fn sharded() -> Files {
    let mut files = whole_repository();
    files.remove("model.safetensors");
    files.insert("model.safetensors.index.json", served(INDEX_TEXT));
    files.insert("model-00001-of-00002.safetensors", weights("the first"));
    files.insert("model-00002-of-00002.safetensors", weights("the second"));
    files
}

#[test]
fn weights_in_several_files_are_downloaded_with_their_index() {
    let hub = Hub::start(sharded());
    let cache = tempfile::tempdir().unwrap();
    let config = hub.config(cache.path());
    let folder = config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    let shard = folder.join("model-00002-of-00002.safetensors");
    assert_eq!(fs::read_to_string(&shard).unwrap(), "the second");
    assert_eq!(config.find_local(&name("org/name")).unwrap(), Some(folder.clone()));
    // A part that was lost is fetched again.
    fs::remove_file(&shard).unwrap();
    assert_eq!(config.find_local(&name("org/name")).unwrap(), None);
    assert_eq!(config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap(), folder);
    assert_eq!(fs::read_to_string(&shard).unwrap(), "the second");
}

#[test]
fn an_index_that_names_what_the_repository_lacks_or_leaves_the_folder_is_refused() {
    let mut lacks = sharded();
    lacks.remove("model-00002-of-00002.safetensors");
    let mut leaves = sharded();
    let index = INDEX_TEXT.replace("model-00002", "../../model-00002");
    leaves.insert("model.safetensors.index.json", served(&index));
    for (files, expected) in [
        (
            lacks,
            "org/name has no model-00002-of-00002.safetensors, which its model.safetensors.index.json names",
        ),
        (leaves, "which is no safetensors file of this folder"),
    ] {
        let error = refusal(&Hub::start(files), "org/name");
        assert_eq!(error.kind(), Kind::Precondition, "{error}");
        assert!(error.message().contains(expected), "{error}");
    }
}

#[test]
fn byte_pairs_are_downloaded_where_there_is_no_other_tokenizer() {
    let mut files = whole_repository();
    files.insert("vocab.json", served("{}"));
    files.insert("merges.txt", served("#version: 0.2"));
    let download = |files| {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(files);
        let folder =
            hub.config(cache.path()).resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
        ["vocab.json", "merges.txt"].map(|name| folder.join(name).exists())
    };
    assert_eq!(download(files.clone()), [false, false]);
    files.remove("tokenizer.json");
    assert_eq!(download(files), [true, true]);
}

#[test]
fn weights_that_arrive_cut_or_changed_are_not_accepted() {
    let good = || weights("the weights");
    for (weights, expected) in [
        (Served { announced: 20, length: 20, ..good() }, "model.safetensors: "),
        (Served { announced: 20, ..good() }, "11 bytes arrived of 20"),
        (Served { announced: 5, ..good() }, "more than 5 bytes arrived"),
        (Served { body: b"the w8ights".to_vec(), ..good() }, "have another SHA-256"),
        (Served { etag: "\"../../../x\"".to_owned(), ..good() }, "does not answer like a Hugging Face hub"),
    ] {
        let mut files = whole_repository();
        files.insert("model.safetensors", weights);
        let hub = Hub::start(files);
        let cache = tempfile::tempdir().unwrap();
        let config = hub.config(cache.path());
        let error = config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.message().contains(expected), "{error}");
        for revision in ["main", COMMIT] {
            assert_eq!(config.find_local(&name(&format!("org/name@{revision}"))).unwrap(), None);
        }
    }
}

#[test]
fn a_hub_that_is_down_or_silent_is_given_up_soon() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Connections are taken by the operating system, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [closed, silent.local_addr().unwrap()] {
        let cache = tempfile::tempdir().unwrap();
        let config = HubConfig {
            cache: cache.path().to_owned(),
            endpoint: format!("http://{address}"),
            offline: false,
            token: None,
            patience: Duration::from_millis(200),
        };
        let start = Instant::now();
        let error = config.resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.message().contains(&address.to_string()), "{error}");
        assert!(error.message().contains("pass the folder"), "{error}");
    }
}

#[test]
fn files_that_are_stored_elsewhere_are_fetched_there_without_the_token() {
    // The storage refuses to see a token, and the hub to see none.
    let storage = Hub::start(whole_repository());
    let mut files = whole_repository();
    files.get_mut("model.safetensors").unwrap().stored_at = Some(storage.endpoint.clone());
    let hub = Hub::start(files);
    let cache = tempfile::tempdir().unwrap();
    let folder =
        hub.config(cache.path()).resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
    assert_eq!(storage.asked(), ["/storage/model.safetensors 0-0", "/storage/model.safetensors 0-"]);
}

#[test]
fn a_hub_that_always_sends_all_is_understood() {
    let mut files = whole_repository();
    files.get_mut("model.safetensors").unwrap().whole = true;
    let hub = Hub::start(files);
    let cache = tempfile::tempdir().unwrap();
    let incomplete =
        Repository::new(cache.path(), "org/name").incomplete(&weights("the weights").etag.replace('"', ""));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, "the").unwrap();
    let folder =
        hub.config(cache.path()).resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
    assert!(!incomplete.exists());
}

#[test]
fn an_empty_file_is_a_file() {
    let mut files = whole_repository();
    files.insert("added_tokens.json", served(""));
    let hub = Hub::start(files);
    let cache = tempfile::tempdir().unwrap();
    let folder =
        hub.config(cache.path()).resolve(&name("org/name"), &Cancel::default(), &mut |_| ()).unwrap();
    assert_eq!(fs::read(folder.join("added_tokens.json")).unwrap(), b"");
}
