//! `client models`: names with numbered versions, and the aliases that point at them; what is loaded.

use std::io::IsTerminal as _;

use hone::v1;

use super::{download, hint_at_models};
use crate::cli::{Global, ModelsCommand, OnOff, ServePrecision};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output::table::{Column, Table};
use crate::output::{Output, format, json, serving, unreadable};
use crate::pages;

/// The alias that services call, where none is named.
const LIVE: &str = "live";

pub(super) async fn run(
    global: &Global,
    command: Option<&ModelsCommand>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    match command {
        None | Some(ModelsCommand::List) => list(global, output).await,
        Some(ModelsCommand::Show { name }) => show(global, name, output).await,
        Some(ModelsCommand::Promote { model, to, alias, canary, shadow }) => {
            let alias = to.as_deref().or(alias.as_deref()).unwrap_or(LIVE).to_owned();
            let shadow = shadow.map(|shadow| shadow == OnOff::On);
            let request = v1::PromoteModelRequest { model: model.clone(), alias, canary: *canary, shadow };
            promote(global, request, output).await
        }
        Some(ModelsCommand::Rollback { name, alias }) => rollback(global, name, alias, output).await,
        Some(ModelsCommand::History { name }) => history(global, name, output).await,
        Some(ModelsCommand::Load { model }) => change(global, Change::Load, model, output).await,
        Some(ModelsCommand::Unload { model }) => change(global, Change::Unload, model, output).await,
        Some(ModelsCommand::Pin { model }) => change(global, Change::Pin(true), model, output).await,
        Some(ModelsCommand::Unpin { model }) => change(global, Change::Pin(false), model, output).await,
        Some(ModelsCommand::Set { name, precision }) => {
            change(global, Change::Precision(*precision), name, output).await
        }
        Some(ModelsCommand::Delete { model, yes }) => delete(global, model, *yes, output).await,
        Some(ModelsCommand::Download { model, to }) => {
            download::run(global, model, to.as_deref(), output).await
        }
    }
}

/// One model by its plain name.
pub(super) async fn get(daemon: &Daemon, name: &str) -> Result<v1::Model, Error> {
    let request = v1::GetModelRequest { name: name.to_owned() };
    daemon.call(daemon.models().get(request)).await.map_err(hint_at_models)
}

async fn list(global: &Global, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let ask = async |page_token| {
        let request = v1::ListModelsRequest { page_token, ..Default::default() };
        let mut page = daemon.call(daemon.models().list(request)).await?;
        let next = std::mem::take(&mut page.next_page_token);
        Ok((page, next))
    };
    let found = pages::all(ask, |all: &mut v1::ListModelsResponse, page| {
        all.unreadable.extend(page.unreadable);
        for model in page.models {
            // One that did not fit into its page goes on in the next.
            match all.models.last_mut().filter(|last| last.name == model.name) {
                Some(last) => last.versions.extend(model.versions),
                None => all.models.push(model),
            }
        }
    });
    let found = found.await?;
    let models = found.models;
    if output.is_json() {
        models.iter().try_for_each(|model| output.json(&json::model(model)))?;
        return unreadable::tell(&found.unreadable, output);
    }
    unreadable::tell(&found.unreadable, output)?;
    if models.is_empty() {
        output.note("no models yet; `client train` makes one");
        return Ok(());
    }
    let mut table = version_table();
    for model in &models {
        add_versions(&mut table, model);
    }
    output.text(&table.lines(output.width()).join("\n"))
}

async fn show(global: &Global, name: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    // A version or alias in the name is no mistake worth an error: the model shows all of its versions.
    let model = get(&daemon, name.split('@').next().unwrap_or(name)).await?;
    tell(&model, output)
}

async fn promote(
    global: &Global,
    request: v1::PromoteModelRequest,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let v1::PromoteModelRequest { model, alias, canary, shadow } = request.clone();
    if !model.contains('@') {
        return Err(Error::usage(format!("\"{model}\" names no version"))
            .hint(format!("write NAME@VERSION, for example {model}@1")));
    }
    let daemon = Daemon::connect(global).await?;
    // The version is loaded and checked first.
    let shown = daemon.call_start(daemon.models().promote(request)).await.map_err(hint_at_models)?;
    match (canary, shadow) {
        _ if output.is_json() => output.json(&json::model(&shown)),
        (Some(0.0), _) => output.text(&format!("{}@{alias} is shared with no other version now", shown.name)),
        (Some(share), _) => output.text(&format!(
            "{model} answers {} of the callers of {}@{alias} now",
            format::share(share),
            shown.name
        )),
        (_, Some(true)) => output.text(&format!("{model} answers beside {}@{alias} now", shown.name)),
        (_, Some(false)) => output.text(&format!("nothing answers beside {}@{alias} any more", shown.name)),
        (None, None) => say_where(&shown, &alias, output),
    }
}

async fn rollback(global: &Global, name: &str, alias: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::RollbackModelRequest { name: name.to_owned(), alias: alias.to_owned() };
    let model = daemon.call_start(daemon.models().rollback(request)).await.map_err(hint_at_models)?;
    if output.is_json() {
        return output.json(&json::model(&model));
    }
    say_where(&model, alias, output)
}

/// Says where an alias points.
fn say_where(model: &v1::Model, alias: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let version = model.aliases.iter().find(|known| known.name == alias).map(|known| known.version);
    let version = version.map_or_else(|| "?".to_owned(), |version| version.to_string());
    output.text(&format!("{}@{alias} is version {version} now", model.name))
}

async fn history(global: &Global, name: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::ModelHistoryRequest { name: name.to_owned() };
    let history = daemon.call(daemon.models().history(request)).await.map_err(hint_at_models)?;
    if output.is_json() {
        return history.moves.iter().try_for_each(|moved| output.json(&serving::move_json(moved)));
    }
    output.text(&serving::moves(&history.moves).lines(output.width()).join("\n"))
}

/// A change of what is loaded, or how.
enum Change {
    Load,
    Unload,
    Pin(bool),
    Precision(ServePrecision),
}

async fn change(global: &Global, change: Change, model: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let (mut models, name) = (daemon.models(), model.to_owned());
    let done = match change {
        Change::Load => daemon.call_start(models.load(v1::LoadModelRequest { model: name })).await,
        Change::Unload => daemon.call(models.unload(v1::UnloadModelRequest { model: name })).await,
        Change::Pin(pinned) => {
            daemon.call_start(models.pin(v1::PinModelRequest { model: name, pinned })).await
        }
        Change::Precision(precision) => {
            let precision = match precision {
                ServePrecision::Default => "",
                ServePrecision::Auto => "auto",
                ServePrecision::Fp32 => "fp32",
                ServePrecision::Bf16 => "bf16",
                ServePrecision::Int8 => "int8",
            };
            let request = v1::SetModelRequest { name, precision: Some(precision.to_owned()) };
            daemon.call_start(models.set(request)).await
        }
    };
    tell(&done.map_err(hint_at_models)?, output)
}

async fn delete(global: &Global, model: &str, yes: bool, output: &mut Output<'_>) -> Result<(), Error> {
    let what = match model.split_once('@') {
        Some((name, version)) => format!("version {version} of {name}"),
        None => format!("{model} with all of its versions"),
    };
    if !yes && !confirmed(&what, output).await? {
        return Err(Error::other(format!("{what} was not deleted")));
    }
    let daemon = Daemon::connect(global).await?;
    let request = v1::DeleteModelRequest { model: model.to_owned() };
    daemon.call(daemon.models().delete(request)).await.map_err(hint_at_models)?;
    if output.is_json() {
        return output.json(&serde_json::json!({"deleted": model}));
    }
    output.text(&format!("deleted {}", format::one_line(&what)))
}

/// Asks on a terminal; elsewhere nobody can answer, and `--yes` has to say it.
async fn confirmed(what: &str, output: &mut Output<'_>) -> Result<bool, Error> {
    if !output.has_bar() || !std::io::stdin().is_terminal() {
        return Err(Error::usage(format!("deleting {what} cannot be undone")).hint("add --yes to do it"));
    }
    output.note(&format!("delete {what}? This cannot be undone. [y/N]"));
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.map_err(|error| Error::other(error.to_string()))??;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn tell(model: &v1::Model, output: &mut Output<'_>) -> Result<(), Error> {
    if output.is_json() {
        return output.json(&json::model(model));
    }
    let mut table = version_table();
    add_versions(&mut table, model);
    let mut text = table.lines(output.width()).join("\n");
    for paragraph in serving::paragraphs(model, output) {
        text.push_str(&format!("\n\n{paragraph}"));
    }
    let mut facts = Table::new([Column::left(""), Column::left("").shrink(10)]);
    if let Some(newest) = model.versions.first() {
        let mut fact =
            |name: &str, value: &str| facts.row([output.paint().dim(name), format::one_line(value)]);
        fact("labels", &newest.labels.join(", "));
        fact("encoder", &newest.encoder);
        fact("max length", &format!("{} tokens", newest.max_length));
        fact("job", &newest.job_id);
        fact("weights", &newest.weights_sha256);
        text.push_str(&format!("\n\nversion {}\n", newest.version));
        text.push_str(&facts.lines(output.width()).join("\n"));
    }
    output.text(&text)
}

fn version_table() -> Table {
    Table::new([
        Column::left("model").shrink(10),
        Column::left("aliases").shrink(6),
        Column::right("val loss").spare(2),
        Column::right("val acc").spare(1),
        Column::right("test acc"),
        Column::right("epoch").spare(5),
        Column::right("size").spare(4),
        Column::left("created (UTC)").spare(3),
        Column::left("job").spare(6),
    ])
}

fn add_versions(table: &mut Table, model: &v1::Model) {
    for version in &model.versions {
        let aliases: Vec<&str> = model
            .aliases
            .iter()
            .filter(|alias| alias.version == version.version)
            .map(|alias| alias.name.as_str())
            .collect();
        let value = |metrics: &Option<v1::Metrics>, value: fn(&v1::Metrics) -> f64| {
            metrics.as_ref().map_or_else(|| "-".to_owned(), |metrics| format::metric(value(metrics)))
        };
        table.row([
            format::one_line(&format!("{}@{}", model.name, version.version)),
            format::one_line(&aliases.join(", ")),
            value(&version.validation, |metrics| metrics.loss),
            value(&version.validation, |metrics| metrics.accuracy),
            value(&version.test, |metrics| metrics.accuracy),
            version.epoch.to_string(),
            format::bytes(version.size_bytes),
            format::minute(version.created_at.as_ref()),
            format::one_line(&version.job_id),
        ]);
    }
}
