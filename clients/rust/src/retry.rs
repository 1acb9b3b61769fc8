//! Retries that do nothing twice: a request that creates something carries an id of its caller,
//! and a repetition of it is answered with the first one's result.

use std::time::Duration;

use tonic::Code;
use uuid::Uuid;

use crate::error::Error;

/// Pause before the first repetition; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// An id for the `request_id` of a request. Make it once, outside of the retries.
pub fn new_request_id() -> String {
    Uuid::now_v7().to_string()
}

/// Calls up to `attempts` times while the control plane is unavailable, and as late as it asks.
/// Only for calls that change nothing, or that carry a `request_id`.
///
/// # Errors
/// The last attempt's error.
pub async fn retrying<T>(
    attempts: u32,
    mut call: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut pause = FIRST;
    for _ in 1..attempts {
        match call().await {
            Err(error) if is_passing(&error) => {
                let asked = error.api().and_then(|error| error.retry_after);
                tokio::time::sleep(asked.unwrap_or(pause)).await;
                pause = (pause * 2).min(LONGEST);
            }
            done => return done,
        }
    }
    call().await
}

fn is_passing(error: &Error) -> bool {
    match error {
        Error::Api(error) => {
            let asked = error.code == Code::ResourceExhausted && error.retry_after.is_some();
            error.code == Code::Unavailable || asked
        }
        Error::Transport(_) => true,
        Error::Address(_) | Error::Token => false,
    }
}
