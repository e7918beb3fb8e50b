//! Certificates in files: read, and read again when they change, without a restart. gRPC and the players' address share it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What is made of files with certificates.
pub(crate) trait Certified: Sized + Send + Sync + 'static {
    /// When the certificate that is shown to others runs out, in unix seconds. None: there is none.
    fn not_after(&self) -> Option<i64>;
}

/// What is in the files, as it is now.
pub(crate) struct Watched<T> {
    /// Of what they are, for logs and metrics: "http" or "grpc".
    which: &'static str,
    files: Vec<PathBuf>,
    read: Box<dyn Fn(u64) -> anyhow::Result<T> + Send + Sync>,
    now: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// Of the last attempt to read them, whether it went well or not.
    stamps: Stamps,
    /// Counts up with each attempt.
    generation: u64,
}

/// When each file was last changed in any way, in seconds and nanoseconds, and how long it is. Not when it was written: whoever copies or moves
/// a file with its times would otherwise put back the older one unseen.
type Stamps = Vec<Option<(i64, i64, u64)>>;

impl<T: Certified> Watched<T> {
    /// `read` is given the number of the reading.
    ///
    /// # Errors
    /// What `read` says of the files as they are.
    pub fn load(
        which: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn(u64) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Arc<Self>> {
        // Before the files: one that changes meanwhile is read again.
        let seen = Mutex::new(Seen { stamps: stamps(&files), generation: 1 });
        let now = RwLock::new(Arc::new(read(1)?));
        let watched = Arc::new(Self { which, files, read: Box::new(read), now, seen });
        watched.tell();
        Ok(watched)
    }

    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files until `stop`, and reads them again when they have changed. What cannot be used is logged and
    /// counted, and the last that could stays.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let watched = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || watched.look()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    tracing::info!(tls.which = self.which, "The certificates have changed and were read again.");
                }
                Ok(Err(error)) => tracing::error!(
                    tls.which = self.which,
                    "The changed certificates cannot be used, the old ones stay: {error:#}"
                ),
                Err(panicked) => tracing::error!(
                    tls.which = self.which,
                    %panicked,
                    "The certificates could not be looked at; it is tried again."
                ),
            }
        }
    }

    /// Reads the files again if they have changed since the last time; whether they had.
    ///
    /// # Errors
    /// What they are now cannot be used.
    pub fn look(&self) -> anyhow::Result<bool> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if seen.stamps == stamps {
            return Ok(false);
        }
        *seen = Seen { stamps, generation: seen.generation + 1 };
        let read = (self.read)(seen.generation);
        let outcome = if read.is_ok() { "ok" } else { "failed" };
        metrics::counter!("asobi_tls_reloads_total", "which" => self.which, "outcome" => outcome).increment(1);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read?);
        self.tell();
        Ok(true)
    }

    /// Says when the certificate runs out, so that somebody is told before players are.
    fn tell(&self) {
        let Some(not_after) = self.now().not_after() else { return };
        #[expect(clippy::cast_precision_loss, reason = "seconds of this age are exact in a double")]
        let seconds = not_after as f64;
        metrics::gauge!("asobi_tls_certificate_expiry_seconds", "which" => self.which).set(seconds);
        if not_after <= i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX) {
            tracing::error!(tls.which = self.which, "The certificate has expired: whoever checks it does not connect.");
        }
    }
}

fn stamps(files: &[PathBuf]) -> Stamps {
    let stamp = |path: &PathBuf| fs::metadata(path).ok().map(|meta| (meta.ctime(), meta.ctime_nsec(), meta.len()));
    files.iter().map(stamp).collect()
}

/// All of a file's certificates.
pub(crate) fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.with_context(|| format!("{} cannot be read as certificates in PEM", path.display()))?;
    anyhow::ensure!(!read.is_empty(), "{} has no certificate", path.display());
    Ok(read)
}

pub(crate) fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| format!("{} cannot be read as a key in PEM", path.display()))
}

/// When the first of them, which is the one that is shown, runs out, in unix seconds.
pub(crate) fn not_after(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
