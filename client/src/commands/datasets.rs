//! `client datasets`: the labelled files that the daemon keeps.

use std::path::Path;

use hone::v1;

use crate::cli::{ColumnArgs, DatasetsCommand, Global};
use crate::connect::Daemon;
use crate::error::{Error, Kind};
use crate::files::{LocalFile, Sender};
use crate::output::table::{Column, Table};
use crate::output::{Output, Paint, format, json, unreadable};
use crate::pages;

pub(super) async fn run(
    global: &Global,
    command: Option<&DatasetsCommand>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    match command {
        None | Some(DatasetsCommand::List) => list(global, output).await,
        Some(DatasetsCommand::Show { id, columns }) => show(global, id, columns, output).await,
        Some(DatasetsCommand::Upload { file, columns }) => upload(global, file, columns, output).await,
        Some(DatasetsCommand::Delete { id }) => delete(global, id, output).await,
    }
}

async fn list(global: &Global, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let ask = async |page_token| {
        let request = v1::ListDatasetsRequest { page_token, ..Default::default() };
        let mut page = daemon.call(daemon.datasets().list(request)).await?;
        let next = std::mem::take(&mut page.next_page_token);
        Ok((page, next))
    };
    let found = pages::all(ask, |all, page| {
        all.datasets.extend(page.datasets);
        all.unreadable.extend(page.unreadable);
    });
    let found = found.await?;
    let datasets = found.datasets;
    if output.is_json() {
        datasets.iter().try_for_each(|dataset| output.json(&json::dataset(dataset)))?;
        return unreadable::tell(&found.unreadable, output);
    }
    unreadable::tell(&found.unreadable, output)?;
    if datasets.is_empty() {
        output.note("no data sets yet; `client datasets upload FILE` sends one, and so does `client train`");
        return Ok(());
    }
    let mut table = Table::new([
        Column::left("name").shrink(8),
        Column::right("rows"),
        Column::right("labels").spare(1),
        Column::right("size").spare(2),
        Column::left("created (UTC)").spare(3),
        Column::left("id").shrink(12),
    ]);
    for dataset in &datasets {
        let summary = dataset.summary.as_ref();
        table.row([
            format::one_line(&dataset.name),
            summary.map_or_else(|| "-".to_owned(), |summary| format::count(summary.rows)),
            summary.map_or_else(|| "-".to_owned(), |summary| summary.labels.len().to_string()),
            format::bytes(dataset.size_bytes),
            format::minute(dataset.created_at.as_ref()),
            format::one_line(&dataset.id),
        ]);
    }
    output.text(&table.lines(output.width()).join("\n"))
}

async fn show(global: &Global, id: &str, columns: &ColumnArgs, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::GetDatasetRequest { id: id.to_owned(), columns: columns.to_proto(), name: None };
    let dataset = daemon.call(daemon.datasets().get(request)).await.map_err(hint)?;
    tell(&dataset, output)
}

async fn upload(
    global: &Global,
    file: &Path,
    columns: &ColumnArgs,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let file = LocalFile::check("", file)?;
    let daemon = Daemon::connect(global).await?;
    let known = Sender::default().ensure(&daemon, &file, columns.to_proto().as_ref(), output).await?;
    if !known.sent {
        output.note("the daemon has this file already; nothing was sent");
    }
    tell(&known.dataset, output)
}

async fn delete(global: &Global, id: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::DeleteDatasetRequest { id: id.to_owned() };
    daemon.call(daemon.datasets().delete(request)).await.map_err(hint)?;
    if output.is_json() {
        return output.json(&serde_json::json!({"deleted": id}));
    }
    output.text(&format!("deleted {}", format::one_line(id)))
}

fn hint(error: Error) -> Error {
    error.hint_if(Kind::NotFound, "`client datasets` lists the data sets")
}

fn tell(dataset: &v1::Dataset, output: &mut Output<'_>) -> Result<(), Error> {
    if output.is_json() {
        return output.json(&json::dataset(dataset));
    }
    let text = describe(dataset, output.width(), output.paint());
    output.text(&text)
}

fn describe(dataset: &v1::Dataset, width: Option<usize>, paint: Paint) -> String {
    let mut facts = Table::new([Column::left(""), Column::left("").shrink(10)]);
    let mut fact = |name: &str, value: &str| facts.row([paint.dim(name), format::one_line(value)]);
    fact("name", &dataset.name);
    fact("id", &dataset.id);
    fact("format", &json::format(dataset.format).replace('_', " "));
    fact("size", &format::bytes(dataset.size_bytes));
    fact("created", &format!("{} UTC", format::minute(dataset.created_at.as_ref())));
    let Some(summary) = &dataset.summary else { return facts.lines(width).join("\n") };
    fact("rows", &format::count(summary.rows));
    fact("columns", &summary.columns.join(", "));
    let used = summary.used.clone().unwrap_or_default();
    for (name, column) in [("text", &used.text), ("text pair", &used.text_pair), ("label", &used.label)] {
        if let Some(column) = column {
            fact(name, column);
        }
    }
    if !used.label_columns.is_empty() {
        fact("labels", &used.label_columns.join(", "));
    }
    if !summary.guess.is_empty() {
        fact("guessed", &format::told(&summary.guess));
    }
    for note in &summary.notes {
        fact("note", &format::told(note));
    }
    if let Some(of) = &summary.characters {
        let lengths = [("median", of.p50), ("95%", of.p95), ("longest", of.max)];
        let words = lengths.map(|(name, value)| format!("{name} {}", format::count(value.into())));
        fact("characters", &words.join(", "));
    }
    let mut labels = Table::new([Column::left("label").shrink(8), Column::right("rows"), Column::right("")]);
    for label in &summary.labels {
        labels.row([
            format::one_line(&label.label),
            format::count(label.rows),
            format::percent(label.rows, summary.rows),
        ]);
    }
    let mut blocks = vec![facts.lines(width).join("\n")];
    if !labels.is_empty() {
        blocks.push(labels.lines(width).join("\n"));
    }
    blocks.join("\n\n")
}
