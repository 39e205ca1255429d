//! Scans as streams, with credit: the server is at most a few pages ahead of the reader.

use super::call::{Tries, too_large};
use super::connection::{Stream, SubmitError};
use super::part::push_for;
use super::pool::Pool;
use crate::cursor::{Cursor, Page, Row};
use crate::request::{Reply, Route};
use crate::retry::Failure;
use crate::routing::{Course, Target, Trouble};
use crate::{Error, KeySpan, Staleness};
use base::Timestamp;
use base::api::ReadAt;
use base::key::Span;
use std::sync::Arc;
use std::time::Instant;

/// Pages that the server may be ahead.
const CREDIT_PAGES: u32 = 4;

/// A scan being described: end it with [`Scan::rows`].
#[derive(Debug)]
#[must_use = "a scan does nothing before its rows are asked for"]
pub struct Scan {
    pool: Arc<Pool>,
    span: Result<Span, Error>,
    reverse: bool,
    limit: Option<u64>,
    page_rows: Option<u32>,
    at: ReadAt,
}

impl Scan {
    pub(crate) fn new(pool: Arc<Pool>, span: Result<Span, Error>) -> Self {
        Self {
            pool,
            span,
            reverse: false,
            limit: None,
            page_rows: None,
            at: ReadAt::Newest,
        }
    }

    /// From the end of the span to its start.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most `rows` rows.
    pub fn limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// At most `rows` rows per page, in `1..=65_536` (4096 unless chosen otherwise). Pages are also limited in bytes.
    pub fn page(mut self, rows: u32) -> Self {
        self.page_rows = Some(rows);
        self
    }

    /// As of `ts`, instead of now.
    pub fn at(mut self, ts: Timestamp) -> Self {
        self.at = ReadAt::At(ts);
        self
    }

    /// As of a while ago, from the nearest nodes that have the rows: all rows of one moment, which the node of the first ones
    /// chooses.
    pub fn stale(mut self, staleness: Staleness) -> Self {
        self.at = staleness.read_at();
        self
    }

    /// Only keys that also lie in `span`.
    pub fn within(mut self, span: impl KeySpan) -> Self {
        let other = span.into_span();
        self.span = self.span.map(|span| {
            let empty = || Span::new(&span.start, Some(&span.start));
            span.intersect(&other.start, other.end.as_deref())
                .unwrap_or_else(empty)
        });
        self
    }

    /// The rows.
    pub fn rows(self) -> Rows {
        let (span, invalid) = match self.span {
            Ok(span) => (span, None),
            Err(error) => (Span::default(), Some(error)),
        };
        let mut cursor = Cursor::new(span, self.reverse, self.at, self.limit);
        if let Some(rows) = self.page_rows {
            cursor.set_page_rows(rows);
        }
        Rows {
            pool: self.pool,
            cursor,
            invalid,
            stream: None,
            page: None,
            at: 0,
        }
    }
}

/// The rows of a scan, in order, all read at one timestamp. Ends only when the span or the limit is exhausted: whatever
/// interrupts it is overcome or becomes an error.
#[derive(Debug)]
pub struct Rows {
    pool: Arc<Pool>,
    cursor: Cursor,
    invalid: Option<Error>,
    /// The running stream and where it comes from.
    stream: Option<(Stream, Target)>,
    /// The page whose rows are being handed out.
    page: Option<Page>,
    at: usize,
}

impl Rows {
    /// The next row, or `None` after the last one.
    ///
    /// # Errors
    /// See [`Error`]. After an error the scan may be continued by calling again.
    ///
    /// # Cancellation
    /// Safe: no row is lost.
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            if let Some((key, value, ts)) = self.page.as_ref().and_then(|page| page.get(self.at)) {
                self.at += 1;
                return Ok(Some(Row {
                    key: key.to_vec(),
                    value: value.to_vec(),
                    ts,
                }));
            }
            self.page = self.fetch().await?;
            self.at = 0;
            if self.page.is_none() {
                return Ok(None);
            }
        }
    }

    /// The next page of rows, never empty, or `None` after the last one: cheaper than rows one by one. Rows of a page that
    /// [`Self::next`] has begun to hand out are skipped.
    ///
    /// # Errors
    /// As [`Self::next`].
    ///
    /// # Cancellation
    /// Safe: no page is lost.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        self.page = None;
        self.fetch().await
    }

    /// All the rows that are left.
    ///
    /// # Errors
    /// As [`Self::next`].
    ///
    /// # Cancellation
    /// Rows gathered so far are lost.
    pub async fn collect(mut self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        while let Some(page) = self.next_page().await? {
            rows.extend(page.iter().map(|(key, value, ts)| Row {
                key: key.to_vec(),
                value: value.to_vec(),
                ts,
            }));
        }
        Ok(rows)
    }

    /// The timestamp that the scan reads at; known after the first row, or when chosen by [`Scan::at`].
    #[must_use]
    pub fn read_ts(&self) -> Option<Timestamp> {
        self.cursor.read_ts()
    }

    /// The next page with rows, over as many streams as it takes.
    async fn fetch(&mut self) -> Result<Option<Page>, Error> {
        if let Some(error) = &self.invalid {
            return Err(error.clone());
        }
        let mut tries = self.tries();
        while !self.cursor.is_finished() {
            let target = match &self.stream {
                Some((_, target)) => {
                    tries.course.visit(target.server);
                    *target
                }
                None => self.pool.aim_near(self.route(), &mut tries.course),
            };
            let failure = match self.fetch_once(&target, &mut tries).await {
                Ok(Reply::Page(mut page)) => {
                    self.pool.answered(&target);
                    self.cursor.on_page(&mut page)?;
                    match &mut self.stream {
                        Some((stream, target)) if !page.done && !self.cursor.is_finished() => {
                            // Told once.
                            target.is_news = false;
                            stream.credit(1);
                        }
                        Some(_) | None => self.stream = None,
                    }
                    if !page.is_empty() {
                        return Ok(Some(page));
                    }
                    // An empty page is progress too: the span has become smaller.
                    tries.reset();
                    continue;
                }
                Ok(Reply::Refused(refusal)) => Failure::Refused(refusal),
                Ok(Reply::Transact { answer, now }) => {
                    self.stream = None;
                    self.pool.answered(&target);
                    let push = push_for(Some(self.cursor.at()), now);
                    match self.pool.clear_way(*answer, push, tries.deadline()).await? {
                        Some(failure) => failure,
                        None => {
                            self.cursor.read_at(now);
                            continue;
                        }
                    }
                }
                Ok(other) => return Err(other.unexpected("a scan")),
                Err(failure) => failure,
            };
            self.stream = None;
            self.pool.after(failure, &target, &mut tries).await?;
        }
        Ok(None)
    }

    /// The tries of a page. Of a moment named by its age each stream goes to the nearest node.
    fn tries(&self) -> Tries {
        let mut tries = Tries::new(&self.pool.options, false);
        tries.course = Course::new(self.cursor.is_stale);
        tries
    }

    async fn fetch_once(&mut self, target: &Target, tries: &mut Tries) -> Result<Reply, Failure> {
        if self.stream.is_none() {
            self.stream = Some((self.start(target, tries).await?, *target));
        }
        let (stream, source) = self.stream.as_mut().expect("just started");
        let (watch, begun, deadline) = (stream.watch(), Instant::now(), tries.deadline());
        let allowance = tries
            .course
            .allowance(target.server, self.pool.options.try_timeout);
        let until = self.pool.step_deadline(allowance, deadline);
        match tokio::time::timeout_at(until.into(), stream.next()).await {
            Ok(Ok(reply)) => {
                if stream.take_misrouted() {
                    self.pool.was_misrouted(source.server);
                }
                Ok(reply)
            }
            Ok(Err(error)) => {
                self.pool.failed(target.server, Trouble::Broke);
                Err(Failure::Lost(error))
            }
            Err(_) if until < deadline => {
                Err(Failure::Lost(self.pool.unanswered(&watch, begun, target, tries)))
            }
            Err(_) => Err(Failure::TimedOut),
        }
    }

    async fn start(&self, target: &Target, tries: &Tries) -> Result<Stream, Failure> {
        let connection = self.pool.connect_for(target, tries.deadline()).await?;
        let request = self.cursor.request(CREDIT_PAGES, tries.server_deadline_ms());
        connection
            .scan(CREDIT_PAGES, |outbox, number| outbox.push(number, &request))
            .map_err(|error| match error {
                SubmitError::Closed(error) => Failure::NotSent(error),
                SubmitError::Encode(error) => Failure::NotSent(too_large(error)),
            })
    }

    /// Where the next rows are.
    fn route(&self) -> Route<'_> {
        if self.cursor.reverse {
            Route::Before(self.cursor.span().end.as_deref())
        } else {
            Route::Key(&self.cursor.span().start)
        }
    }
}
