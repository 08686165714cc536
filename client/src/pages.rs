//! Lists that come in pages: all of them, one after the other.

use std::future::Future;

use crate::error::Error;

/// Collects the pages of a list.
///
/// `ask` takes the token of a page, which is empty for the first one, and gives its content and the token of the next
/// page; `join` puts a page behind those before it. A daemon that knows no pages gives everything and no token.
///
/// # Errors
/// What `ask` fails with, and a daemon that names the same page again.
pub(crate) async fn all<T, F>(
    mut ask: impl FnMut(String) -> F,
    mut join: impl FnMut(&mut T, T),
) -> Result<T, Error>
where
    F: Future<Output = Result<(T, String), Error>>,
{
    let (mut found, mut token) = ask(String::new()).await?;
    while !token.is_empty() {
        let (page, next) = ask(token.clone()).await?;
        if next == token {
            return Err(Error::other("the daemon's list does not come to an end; this is a bug in Hone"));
        }
        join(&mut found, page);
        token = next;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn list(pages: &[(i32, &str)]) -> (Result<Vec<i32>, Error>, Vec<String>) {
        let mut asked = Vec::new();
        let mut pages = pages.iter();
        let ask = |token: String| {
            asked.push(token);
            let (item, next) = pages.next().expect("a page");
            std::future::ready(Ok((vec![*item], (*next).to_owned())))
        };
        let found = all(ask, |all: &mut Vec<i32>, page| all.extend(page)).await;
        (found, asked)
    }

    #[tokio::test]
    async fn pages_are_asked_for_until_no_token_comes() {
        let (found, asked) = list(&[(1, "a"), (2, "b"), (3, "")]).await;
        assert_eq!(found, Ok(vec![1, 2, 3]));
        assert_eq!(asked, ["", "a", "b"]);
    }

    #[tokio::test]
    async fn a_daemon_that_names_the_same_page_again_is_not_asked_for_ever() {
        assert!(list(&[(1, "a"), (2, "a")]).await.0.is_err());
    }
}
