//! The call that a task works for: what serving finds out of it, for those who count it and trace it.
//!
//! The layer that observes calls (`rpc::observe`) makes one for each call and has it at hand whenever the call's future or
//! the body of its answer is polled. A task of its own has none, unless it is put [`within`] one.

use std::sync::{Arc, OnceLock};

tokio::task_local! {
    static CURRENT: Arc<Call>;
}

/// A call.
#[derive(Debug, Default)]
pub struct Call {
    model: OnceLock<Arc<str>>,
}

impl Call {
    /// The model that the call named, once it was looked for.
    pub fn model(&self) -> Option<&str> {
        self.model.get().map(|model| &**model)
    }

    /// Does something for this call.
    pub fn scope<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), work)
    }
}

/// The call that this task works for.
pub fn current() -> Option<Arc<Call>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// The current call is for this model; of a stream that names several, the first counts.
pub fn names(model: &Arc<str>) {
    // Work that no call asked for has none.
    let _ = CURRENT.try_with(|call| call.model.set(model.clone()));
}

/// The same future for another task, which works for the call that is current now.
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let call = current();
    async move {
        match call {
            Some(call) => CURRENT.scope(call, future).await,
            None => future.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_within_a_call_tells_it_the_first_model() {
        let call = Arc::new(Call::default());
        let task = call.scope(|| {
            within(async {
                names(&"reviews".into());
                names(&"topics".into());
            })
        });
        tokio::spawn(task).await.unwrap();
        assert_eq!(call.model(), Some("reviews"));
        assert!(current().is_none());
    }
}
