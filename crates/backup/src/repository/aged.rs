//! A store in memory with a clock that a test turns, and that may ignore conditions.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

#[derive(Debug, Default)]
pub(super) struct Aged {
    objects: InMemory,
    minutes: AtomicI64,
    /// When each object was written.
    written: Mutex<BTreeMap<Path, i64>>,
    pub(super) disobedient: AtomicBool,
}

impl Aged {
    /// What time it is there, counted from 1970.
    pub(super) fn set_minutes(&self, minutes: i64) {
        self.minutes.store(minutes, Ordering::Relaxed);
    }

    pub(super) fn clock(&self) -> Timestamp {
        Timestamp::from_second(self.minutes.load(Ordering::Relaxed) * 60).unwrap()
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let minutes = self.written.lock().unwrap().get(&meta.location).copied().unwrap_or_default();
        let (since, ahead) =
            (meta.last_modified.timestamp_micros(), std::time::Duration::from_mins(minutes.unsigned_abs()));
        meta.last_modified -= std::time::Duration::from_micros(since.unsigned_abs());
        if minutes < 0 {
            meta.last_modified -= ahead;
        } else {
            meta.last_modified += ahead;
        }
        meta
    }
}

impl std::fmt::Display for Aged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store in memory")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Aged {
    async fn put_opts(&self, at: &Path, content: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if self.disobedient.load(Ordering::Relaxed) {
            options.mode = PutMode::Overwrite;
        }
        let put = self.objects.put_opts(at, content, options).await?;
        self.written.lock().unwrap().insert(at.clone(), self.minutes.load(Ordering::Relaxed));
        Ok(put)
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.objects.get_opts(at, options).await?;
        found.meta = self.dated(found.meta);
        Ok(found)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let dates = self.written.lock().unwrap().clone();
        let dated = Self { written: Mutex::new(dates), ..Self::default() };
        self.objects.list(prefix).map(move |found| found.map(|meta| dated.dated(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
