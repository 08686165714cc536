//! How many jobs are in which state, for the metrics: counted when that may have changed, not when somebody asks.

use std::sync::Arc;
use std::time::Duration;

use hone_base::error::{Error, Result};
use hone_storage::{Catalog, State, Topic};

use crate::metrics::Metrics;

/// How long a count stands at least, whatever changes.
const LEAST: Duration = Duration::from_millis(250);

/// How long a count stands at most: a job that is deleted tells nobody.
const MOST: Duration = Duration::from_secs(10);

/// Counts the jobs of a catalog for the metrics, as long as it is polled.
pub async fn count(store: Arc<dyn Catalog>, metrics: Arc<Metrics>) {
    let mut changes = store.watch(Topic::Queue);
    loop {
        // What changes from here on wakes the wait below.
        changes.mark_seen();
        let (store, metrics) = (store.clone(), metrics.clone());
        let counted = tokio::task::spawn_blocking(move || count_now(&*store, &metrics)).await;
        let counted = counted.unwrap_or_else(|error| Err(Error::internal(error.to_string())));
        if let Err(error) = counted {
            tracing::debug!(%error, "the jobs cannot be counted");
        }
        tokio::time::sleep(LEAST).await;
        if let Ok(Err(_)) = tokio::time::timeout(MOST, changes.changed()).await {
            // The catalog cannot be written, and says so each time that it is asked.
            tokio::time::sleep(MOST).await;
        }
    }
}

fn count_now(store: &dyn Catalog, metrics: &Metrics) -> Result<()> {
    for state in State::ALL {
        metrics.jobs.set(state, store.ids_in(state)?.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::testing::{self, spec};

    #[tokio::test]
    async fn a_job_that_comes_and_one_that_begins_are_counted() {
        let home = testing::store();
        let store = home.shared();
        let metrics = Arc::new(Metrics::new().unwrap());
        let counting = tokio::spawn(count(store.clone(), metrics.clone()));
        let until = async |line: &str| {
            for _ in 0..2000 {
                if metrics.render().contains(line) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("no {line} in {}", metrics.render());
        };
        until("hone_jobs{state=\"queued\"} 0\n").await;
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        until("hone_jobs{state=\"queued\"} 1\n").await;
        store.claim("01a", "me").unwrap().unwrap();
        until("hone_jobs{state=\"running\"} 1\n").await;
        until("hone_jobs{state=\"queued\"} 0\n").await;
        counting.abort();
    }
}
