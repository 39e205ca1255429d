//! Scans: pages of one range after another, streamed under credit to the connection that asked.
//!
//! The shard that has the connection runs the scan. It reads pages of its own ranges itself, and asks other shards for
//! theirs, so that a scan goes on wherever its range moves. A stream covers one range and then says where the next begins.

use crate::message::{Answer, Ask, Origin, Page, PageAsk, RawRequest, ShardMessage};
use crate::read::Looks;
use crate::refusal::{Refusal, check_span};
use crate::shard::Shard;
use crate::state::{Credit, Job, Message, Route, ScanParams, State};
use base::api::ReadAt;
use base::{ShardId, Timestamp, limits};
use core::cell::Cell;
use core::time::Duration;
use env::sync::Notify;
use env::{Clock, Env, Instant, Mailbox};
use std::rc::Rc;
use storage::ScanPage;
use wire::request::{ArchivedScan, CREDIT_PAGES_MAX};
use wire::{Code, PageBuilder};

/// Scans that one shard's connections may have open.
const SCANS_MAX: usize = 4096;

impl<E: Env, B> State<E, B> {
    pub(crate) fn on_scan(&mut self, scan: &ArchivedScan<'static>, raw: RawRequest<'_>) {
        let start: &[u8] = &scan.start;
        if let Err(refusal) = check_scan(scan) {
            return self.refuse(raw.origin, &refusal);
        }
        let key = (raw.origin.connection, raw.origin.request);
        if self.scans.len() >= SCANS_MAX || self.scans.contains_key(&key) {
            let message = format!("{SCANS_MAX} scans are open on this shard, or this request id is in use");
            return self.refuse(raw.origin, &Refusal::retry(Code::Overloaded, 10, message));
        }
        let credit = Rc::new(Credit {
            pages: Cell::new(scan.credit_pages.to_native()),
            cancelled: Cell::new(false),
            changed: Notify::new(),
        });
        self.scans.insert(key, credit.clone());
        self.counts.scans += 1;
        let scan = ScanParams {
            start: start.to_vec(),
            end: scan.end().map(<[u8]>::to_vec),
            reverse: scan.reverse,
            at: scan.at(),
            rows_left: scan.rows_max().unwrap_or(u64::MAX),
            page_rows: scan.page_rows.to_native() as usize,
            page_bytes: scan.page_bytes.to_native() as usize,
            deadline_ms: scan.deadline_ms.to_native(),
        };
        self.jobs.push(Job::Scan {
            origin: raw.origin,
            scan,
            credit,
        });
    }

    pub(crate) fn on_scan_credit(&mut self, origin: Origin, pages: u32) {
        if let Some(credit) = self.scans.get(&(origin.connection, origin.request)) {
            credit
                .pages
                .set(credit.pages.get().saturating_add(pages).min(CREDIT_PAGES_MAX));
            credit.changed.notify();
        }
    }

    pub(crate) fn on_scan_cancel(&mut self, origin: Origin) {
        if let Some(credit) = self.scans.remove(&(origin.connection, origin.request)) {
            credit.cancelled.set(true);
            credit.changed.notify();
        }
    }
}

fn check_scan(scan: &ArchivedScan<'static>) -> Result<(), Refusal> {
    check_span(&scan.start, scan.end())?;
    let rules = [
        ("page_rows", scan.page_rows.to_native(), limits::SCAN_ROWS_MAX),
        ("page_bytes", scan.page_bytes.to_native(), limits::SCAN_BYTES_MAX),
        (
            "credit_pages",
            scan.credit_pages.to_native(),
            CREDIT_PAGES_MAX as usize,
        ),
    ];
    for (name, value, max) in rules {
        if value == 0 || value as usize > max {
            return Err(Refusal::fatal(
                Code::InvalidRequest,
                format!("{name} is {value}, not in 1..={max}"),
            ));
        }
    }
    Ok(())
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Streams a scan until its range ends, its rows are used up, it fails, or nobody wants it any more.
    pub(crate) async fn scan(&self, origin: Origin, mut scan: ScanParams, credit: &Credit) {
        let mut builder = PageBuilder::new();
        if scan.at == ReadAt::Newest && self.with_state(|state| leaves_range(state, &scan)) {
            scan.at = ReadAt::At(self.newest_clock().await);
        }
        loop {
            while credit.pages.get() == 0 && !credit.cancelled.get() {
                credit.changed.notified().await;
            }
            if credit.cancelled.get() {
                return;
            }
            let nothing_left = scan.end.as_ref().is_some_and(|end| *end <= scan.start);
            let page = if nothing_left || scan.rows_left == 0 {
                None
            } else {
                Some(self.next_page(&scan).await)
            };
            match page {
                Some(Err(refusal)) => {
                    self.step(|state| state.refuse(origin, &refusal));
                    break;
                }
                Some(Ok(page)) => {
                    if self.send_page(origin, &mut scan, &page, &mut builder, credit) {
                        break;
                    }
                }
                None => {
                    let read_ts = match scan.at {
                        ReadAt::At(read_ts) => read_ts,
                        ReadAt::Newest | ReadAt::Ago(_) | ReadAt::Within(_) => Timestamp::ZERO,
                    };
                    self.step(|state| state.reply(origin, &builder.page(read_ts, None, true)));
                    break;
                }
            }
        }
        self.step(|state| state.scans.remove(&(origin.connection, origin.request)));
    }

    /// A timestamp above every write that any shard has acknowledged. A scan over several ranges reads them all at one
    /// timestamp; the clock of the first range's shard alone may be behind writes of the others, most of all after a
    /// restart, when clocks run on their logical part.
    async fn newest_clock(&self) -> Timestamp {
        let me = self.mailbox.shard();
        let others = (0..self.mailbox.shards())
            .map(ShardId)
            .filter(|&shard| shard != me);
        let asked: Vec<_> = others
            .map(|shard| self.step(|state| state.ask(shard, Ask::Clock)))
            .collect();
        let mut newest = self.step(State::now);
        for answer in asked {
            if let Some(Answer::Clock(clock)) = answer.await {
                newest = newest.max(clock);
            }
        }
        newest
    }

    /// Sends one page and says whether it was the last of the stream.
    fn send_page(
        &self,
        origin: Origin,
        scan: &mut ScanParams,
        page: &Page,
        builder: &mut PageBuilder,
        credit: &Credit,
    ) -> bool {
        builder.clear();
        for (key, value, ts) in page.rows.iter() {
            builder.push(key, value, ts);
        }
        scan.at = ReadAt::At(page.read_ts);
        scan.rows_left -= (page.rows.len() as u64).min(scan.rows_left);
        let done = page.range_done || scan.rows_left == 0 || page.resume.is_none();
        if let Some(resume) = &page.resume {
            if scan.reverse {
                scan.end = Some(resume.clone());
            } else {
                scan.start.clone_from(resume);
            }
        }
        credit.pages.set(credit.pages.get() - 1);
        self.step(|state| {
            state.counts.pages += 1;
            state.reply(origin, &builder.page(page.read_ts, page.resume.as_deref(), done));
        });
        done
    }

    async fn next_page(&self, scan: &ScanParams) -> Result<Box<Page>, Refusal> {
        let deadline = self.now() + Duration::from_millis(scan.deadline_ms.into());
        let ask = PageAsk {
            start: scan.start.clone(),
            end: scan.end.clone(),
            reverse: scan.reverse,
            at: scan.at,
            rows_max: scan
                .page_rows
                .min(usize::try_from(scan.rows_left).unwrap_or(usize::MAX)),
            bytes_max: scan.page_bytes,
            deadline,
        };
        loop {
            if let Some(page) = self.page(&ask).await? {
                return Ok(page);
            }
            let (shard, answer) = self.step(|state| {
                let position = locate(state, &ask);
                let Route::There(shard) = state.routes[position] else {
                    return (None, None);
                };
                (
                    Some(shard),
                    Some(state.ask(shard, Ask::Page(Box::new(ask.clone())))),
                )
            });
            let answer = match answer {
                Some(answer) => answer.await,
                // The range came here in the meantime, or what is here is about to be taken in.
                None => {
                    if self.now() >= deadline {
                        return Err(Refusal::deadline("a range on its way here"));
                    }
                    self.env.clock().sleep(Duration::from_millis(1)).await;
                    continue;
                }
            };
            match answer {
                Some(Answer::Page(Ok(page))) => return Ok(page),
                Some(Answer::Page(Err(refusal))) if refusal.code != Code::WrongShard => return Err(*refusal),
                Some(Answer::Page(Err(refusal))) => {
                    base::sometimes!("node: page asked of a shard that no longer has it");
                    if self.now() >= deadline {
                        return Err(*refusal);
                    }
                    self.env.clock().sleep(Duration::from_millis(1)).await;
                }
                Some(_) | None => {
                    let message = format!("shard {shard:?} did not answer for a page");
                    return Err(Refusal::retry(Code::Unavailable, 10, message));
                }
            }
        }
    }

    /// Reads a page of a range of this shard; `None` when the range is elsewhere.
    pub(crate) async fn page(&self, ask: &PageAsk) -> Result<Option<Box<Page>>, Refusal> {
        let read = self
            .wait_to_read(
                (
                    |state: &State<E, B>| locate(state, ask),
                    Looks::Span(&ask.start, ask.end.as_deref()),
                ),
                ask.at,
                ask.deadline,
            )
            .await?;
        let Some(begun) = read else {
            return Ok(None);
        };
        let (tablet, read_ts) = (&begun.tablet, begun.read_ts);
        let range_span = tablet.span();
        let span = range_span.intersect(&ask.start, ask.end.as_deref());
        let Some(span) = span else { return Ok(None) };
        let newest = base::planted_bug!("node-scan-ignores-ts");
        let page = ScanPage {
            span,
            read_ts: if newest { Timestamp::MAX } else { read_ts },
            reverse: ask.reverse,
            rows_max: ask.rows_max,
            bytes_max: ask.bytes_max,
        };
        let rows = tablet
            .scan_page(&page)
            .await
            .map_err(|error| self.step(|state| state.storage_refusal(tablet.range(), &error)))?;
        self.check_lease(tablet.range(), &begun)?;
        self.with_state(|state| {
            let slot = state.here.get(&tablet.range()).copied();
            if let Some(local) = slot.and_then(|slot| state.slots[slot as usize].live_mut()) {
                local.load.read(&page.span.start);
            }
        });
        drop(begun);
        let range_done = rows.resume.is_none();
        let resume = rows.resume.clone().or_else(|| beyond(ask, &range_span));
        Ok(Some(Box::new(Page {
            rows,
            resume,
            range_done,
            read_ts,
        })))
    }

    /// Answers another shard's question for a page.
    pub(crate) async fn page_for(&self, from: ShardId, ticket: u64, ask: &PageAsk) {
        let page = match self.page(ask).await {
            Ok(Some(page)) => Ok(page),
            Ok(None) => Err(Box::new(Refusal::retry(
                Code::WrongShard,
                1,
                "the range is on another shard",
            ))),
            Err(refusal) => Err(Box::new(refusal)),
        };
        self.step(|state| {
            state.send(
                from,
                ShardMessage::Answer {
                    ticket,
                    answer: Answer::Page(page),
                },
            );
        });
    }

    pub(crate) fn now(&self) -> Instant {
        self.env.clock().now()
    }
}

fn locate<E: Env, B>(state: &State<E, B>, ask: &PageAsk) -> usize {
    if ask.reverse {
        state.map.position_before(ask.end.as_deref())
    } else {
        state.map.position(&ask.start)
    }
}

/// Whether the scan goes on behind the range that it begins in.
fn leaves_range<E: Env, B>(state: &State<E, B>, scan: &ScanParams) -> bool {
    if scan.end.as_ref().is_some_and(|end| *end <= scan.start) {
        return false;
    }
    let position = if scan.reverse {
        state.map.position_before(scan.end.as_deref())
    } else {
        state.map.position(&scan.start)
    };
    let span = &state.map.entries()[position].descriptor.span;
    if scan.reverse {
        return *scan.start < *span.start;
    }
    span.end
        .as_deref()
        .is_some_and(|range_end| scan.end.as_deref().is_none_or(|end| range_end < end))
}

/// Where the span goes on behind the range, if it does.
fn beyond(ask: &PageAsk, range: &base::key::Span) -> Option<Vec<u8>> {
    if ask.reverse {
        return (*ask.start < *range.start).then(|| range.start.to_vec());
    }
    let range_end = range.end.as_deref()?;
    ask.end
        .as_deref()
        .is_none_or(|end| range_end < end)
        .then(|| range_end.to_vec())
}
