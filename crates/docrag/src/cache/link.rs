//! The connection to Redis, and how it is left alone while Redis is away.
//!
//! After a call that failed or took too long, every call misses at once, and a task knocks once a second until Redis
//! answers. So a frozen Redis costs the requests of one moment one time limit, and later requests nothing. (The `redis`
//! crate's own manager was rejected: it reconnects when the connection breaks, but a frozen server breaks nothing, and
//! each call would wait its whole time.)

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use secrecy::{ExposeSecret, SecretString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Between two tries to reach a Redis that is away.
const KNOCK_EVERY: Duration = Duration::from_secs(1);
/// What Redis refuses (out of memory, read only) is logged so often at most.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

pub(super) struct Link {
    /// None when the address is none.
    client: Option<Client>,
    timeout: Duration,
    // A std mutex: it is held to look and to change, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None while Redis is away.
    connection: Option<MultiplexedConnection>,
    /// Counts connections: what an old one still has to say is not the new one's fault.
    generation: u64,
    /// Why Redis does not answer.
    trouble: Option<String>,
    complained: Option<Instant>,
}

impl Link {
    /// Tries once; what is away now is knocked at later.
    pub(super) async fn open(url: &SecretString, timeout: Duration) -> Arc<Self> {
        match Client::open(url.expose_secret()) {
            Ok(client) => {
                let first = knock(&client, timeout).await;
                let link = Arc::new(Self { client: Some(client), timeout, state: Mutex::default() });
                match first {
                    Ok(connection) => link.state().connection = Some(connection),
                    Err(trouble) => link.lose(0, trouble),
                }
                link
            }
            Err(error) => {
                // The URL may hold a password, and the error's detail may hold the URL.
                let trouble = format!("redis.url is not a Redis address (redis://host:port/): {}", error.category());
                tracing::error!(trouble, "redis is not used: nothing is cached, rate limits count per process");
                Arc::new(Self {
                    client: None,
                    timeout,
                    state: Mutex::new(State { trouble: Some(trouble), ..State::default() }),
                })
            }
        }
    }

    /// Why Redis does not answer, if it does not.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// What Redis answers within the time limit. Nothing, at once, while it is away.
    pub(super) async fn call<T, Answer>(
        self: &Arc<Self>,
        ask: impl FnOnce(MultiplexedConnection) -> Answer,
    ) -> Option<T>
    where
        Answer: Future<Output = RedisResult<T>>,
    {
        let (connection, generation) = {
            let state = self.state();
            (state.connection.clone()?, state.generation)
        };
        let trouble = match tokio::time::timeout(self.timeout, ask(connection)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) if is_refusal(&error) => {
                self.complain(&error);
                return None;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => self.too_late(),
        };
        self.lose(generation, trouble);
        None
    }

    /// Leaves Redis alone from now on, and has somebody knock. One log line for an outage.
    fn lose(self: &Arc<Self>, generation: u64, trouble: String) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        tracing::warn!(trouble, "redis does not answer: nothing is cached, rate limits count per process");
        state.generation += 1;
        state.connection = None;
        state.trouble = Some(trouble);
        drop(state);
        tokio::spawn(knock_until_back(Arc::downgrade(self)));
    }

    /// A refusal concerns one call; Redis is there.
    fn complain(&self, error: &RedisError) {
        let now = Instant::now();
        let mut state = self.state();
        if state.complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
            state.complained = Some(now);
            tracing::warn!(%error, "redis refused a call of the cache");
        }
    }

    fn too_late(&self) -> String {
        format!("no answer within {:?}", self.timeout)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when Redis is back, or when nobody wants it any more.
async fn knock_until_back(link: Weak<Link>) {
    loop {
        tokio::time::sleep(KNOCK_EVERY).await;
        let Some(link) = link.upgrade() else { return };
        let Some(client) = &link.client else { return };
        match knock(client, link.timeout).await {
            Ok(connection) => {
                let mut state = link.state();
                state.connection = Some(connection);
                state.trouble = None;
                tracing::info!("redis answers again");
                return;
            }
            Err(trouble) => link.state().trouble = Some(trouble),
        }
    }
}

/// A new connection that answers. The old one is given up: what a frozen server still owes on it would come first.
async fn knock(client: &Client, timeout: Duration) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
    let answered = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    };
    match tokio::time::timeout(timeout, answered).await {
        Ok(connected) => connected.map_err(|error: RedisError| error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

/// Whether Redis answered, and said no.
fn is_refusal(error: &RedisError) -> bool {
    // While it loads its data, every answer is no, and asking again at once is of no use.
    let loading = matches!(error.kind(), ErrorKind::Server(ServerErrorKind::BusyLoading));
    !loading && !error.is_io_error() && !error.is_unrecoverable_error()
}
