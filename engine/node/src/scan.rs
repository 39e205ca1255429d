//! Scans: pages of one range after another, streamed under credit to the connection that asked.
//!
//! The shard that has the connection runs the scan. It reads pages of its own ranges itself, and asks other shards for
//! theirs, so that a scan goes on wherever its range moves. A stream covers one range and then says where the next begins.

use crate::message::{Answer, Ask, Origin, Page, PageAsk, RawRequest, ShardMessage};
use crate::read::Looks;
use crate::refusal::{Refusal, check_span};
use crate::scan_clock::{AGAIN_FIRST, AGAIN_MAX, SHARES_MAX, Share, Shares, above_all};
use crate::shard::Shard;
use crate::start::race;
use crate::state::{Credit, Job, Message, Route, ScanParams, State};
use base::api::ReadAt;
use base::key::Span;
use base::{ShardId, Timestamp, limits};
use core::cell::Cell;
use core::time::Duration;
use env::sync::Notify;
use env::{Clock, Env, Instant, Mailbox};
use liveness::Peer;
use std::rc::Rc;
use std::sync::Arc;
use storage::{Rows, ScanPage};
use wire::peer::{ArchivedNewest, ArchivedNewestStep, Newest, NewestStep};
use wire::request::{ArchivedScan, CREDIT_PAGES_MAX};
use wire::{Code, PageBuilder};

/// Scans that one shard's connections may have open.
const SCANS_MAX: usize = 4096;
/// When a scan that waits so long for the clock to reach its timestamp says first which it is: a client that asks elsewhere meanwhile
/// goes on with it.
const WAIT_UNSAID_MAX: Duration = Duration::from_millis(100);

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

impl<E: Env, B> State<E, B> {
    /// Another node's shard asks how new a span is, or answers. `None`: no node says such a thing.
    pub(crate) fn on_newest(&mut self, caller: Peer, message: &ArchivedNewest<'static>) -> Option<()> {
        let asked = message.asked.timestamp();
        if let ArchivedNewestStep::Share { edges, newest } = &message.step {
            let share = Share {
                edges: edges.to_native(),
                newest: newest.timestamp(),
            };
            // Whoever asked may not wait any more.
            let scan = self.neighbours.as_mut()?.scans.get_mut(&asked);
            if let Some((shares, covered)) = scan {
                shares.hear(caller.node, share);
                if shares.newest().is_some() {
                    covered.notify();
                }
            }
            return Some(());
        }
        let (start, end) = message.step.span()?;
        check_span(start, end).ok()?;
        let span = Span::new(start, end);
        if span.is_empty() {
            return None;
        }
        self.jobs.push(Job::Share {
            asked,
            caller,
            span: Arc::new(span),
        });
        Some(())
    }

    /// What this shard leads of a span that is not empty, and how new it is.
    pub(crate) fn share_of(&mut self, span: &Span) -> Share {
        let first = self.map.position(&span.start);
        let last = self.map.position_before(span.end.as_deref());
        let mut share = Share::default();
        for position in first..=last {
            let Route::Here(slot) = self.routes[position] else {
                continue;
            };
            let Some(local) = self.slots[slot as usize].live() else {
                continue;
            };
            let newest = local.replica.applied_ts();
            let part = &local.replica.descriptor().span;
            let part = part.intersect(&span.start, span.end.as_deref());
            if let Some(part) = part
                && self.has_lease(slot)
            {
                share = share.and(Share::of(&part, newest));
            }
        }
        share
    }

    /// Hears this node's share of the span of a scan that was asked about as `asked`, and asks the other nodes for theirs, unless that
    /// is all of it.
    fn ask_newest(&mut self, asked: Timestamp, span: &Span, own: Share) {
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let me = neighbours.cluster.me;
        let Some((shares, _)) = neighbours.scans.get_mut(&asked) else {
            return;
        };
        shares.hear(me, own);
        if shares.newest().is_some() {
            return;
        }
        let ask = Newest {
            asked: asked.into(),
            step: NewestStep::Ask {
                start: &span.start,
                end: span.end.as_deref(),
            },
        };
        for other in neighbours.others() {
            // Who is not reached is asked again.
            let _ = neighbours.links.send(other.node, ShardId(0), &ask);
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
        let begun_ns = self.env.clock().wall_ns();
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
            } else if scan.at == ReadAt::Newest {
                Some(self.first_page(&scan, begun_ns).await)
            } else {
                Some(self.next_page(&scan, scan.at).await)
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

    /// The first page of a scan of now, which chooses the timestamp of all. It began when the clock was at `begun_ns`.
    async fn first_page(&self, scan: &ScanParams, begun_ns: u64) -> Result<Box<Page>, Refusal> {
        // Where one page may be enough, or one range, nobody need be asked.
        let is_small = scan.rows_left <= scan.page_rows as u64;
        let (mut first, at_least);
        if is_small || !self.with_state(|state| leaves_range(state, scan)) {
            let page = self.next_page(scan, ReadAt::Newest).await?;
            let is_enough = page.rows.len() as u64 >= scan.rows_left;
            if !page.leaves || is_enough {
                base::sometimes!("node: a scan that may leave its range does not", page.leaves);
                return Ok(page);
            }
            base::sometimes!("node: a range was split since a scan looked", !is_small);
            at_least = page.read_ts;
            first = Some(page);
        } else {
            self.with_state(|state| state.may_begin(scan))?;
            // Not this shard's timestamps: they run ahead of the clock while it leads anew, and the others' may not.
            at_least = Timestamp::new(self.env.clock().wall_ns(), 0);
            first = None;
        }
        let read_ts = self.newest_ts(scan, begun_ns, at_least).await?;
        if let Some(page) = first.take_if(|page| page.read_ts == read_ts) {
            return Ok(page);
        }
        let said_from = self.env.clock().wall_ns().saturating_add(nanos(WAIT_UNSAID_MAX));
        let resume = if scan.reverse {
            scan.end.clone()
        } else {
            Some(scan.start.clone())
        };
        if read_ts.wall_ns > said_from && resume.is_some() {
            base::sometimes!("node: a scan says its timestamp, and waits for it");
            return Ok(Box::new(Page {
                rows: Rows::default(),
                resume,
                range_done: false,
                leaves: true,
                read_ts,
            }));
        }
        self.next_page(scan, ReadAt::At(read_ts)).await
    }

    /// A timestamp above every write of the scan's span that was acknowledged when it began, and not below `at_least`: see
    /// `scan_clock`.
    async fn newest_ts(
        &self,
        scan: &ScanParams,
        begun_ns: u64,
        at_least: Timestamp,
    ) -> Result<Timestamp, Refusal> {
        let bound_ns = self.with_state(|state| {
            let neighbours = state.neighbours.as_ref()?;
            Some(neighbours.cluster.liveness.clock_offset_ns_max)
        });
        let Some(bound_ns) = bound_ns.filter(|_| !base::planted_bug!("node-scan-asks-own-node-only")) else {
            return Ok(self.newest_clock().await.max(at_least));
        };
        let span = Arc::new(Span::new(&scan.start, scan.end.as_deref()));
        let covered = Rc::new(Notify::new());
        let asked = self.step(|state| {
            let asked = state.now();
            let shares = Shares::new(&span.start, span.end.as_deref());
            if let Some(neighbours) = &mut state.neighbours {
                neighbours.scans.insert(asked, (shares, covered.clone()));
            }
            asked
        });
        let (begun, deadline) = (self.now(), Duration::from_millis(scan.deadline_ms.into()));
        let until = begun + SHARES_MAX.min(deadline);
        let mut pause = AGAIN_FIRST;
        let shares = |state: &mut State<E, B>| {
            let scans = state.neighbours.as_ref().map(|neighbours| &neighbours.scans);
            let shares = scans.and_then(|scans| scans.get(&asked));
            let newest = shares.and_then(|(shares, _)| shares.newest());
            (
                newest,
                shares.map_or(Timestamp::ZERO, |(shares, _)| shares.newest_covered()),
            )
        };
        let (newest, newest_covered) = loop {
            let own = self.share_of_node(&span).await;
            self.step(|state| state.ask_newest(asked, &span, own));
            let known = self.with_state(shares);
            if known.0.is_some() || self.now() >= until {
                break known;
            }
            race(covered.notified(), self.env.clock().sleep(pause)).await;
            let known = self.with_state(shares);
            if known.0.is_some() {
                break known;
            }
            base::sometimes!("node: the leaders of a span are asked again");
            pause = (pause * 2).min(AGAIN_MAX);
        };
        let highest = self.step(|state| {
            if let Some(neighbours) = &mut state.neighbours {
                neighbours.scans.remove(&asked);
            }
            let (horizon, offset) = (state.config.clock_horizon, state.config.clock_offset_max);
            above_all(begun_ns, bound_ns, nanos(horizon), nanos(offset))
        });
        base::sometimes!(
            "node: nobody leads some of a span that is scanned",
            newest.is_none()
        );
        if newest.is_none() && deadline < SHARES_MAX {
            return Err(Refusal::deadline("those who lead the rest of the span"));
        }
        Ok(newest.unwrap_or(highest.max(newest_covered)).max(at_least))
    }

    /// What this node leads of a span, and how new it is.
    async fn share_of_node(&self, span: &Arc<Span>) -> Share {
        let me = self.mailbox.shard();
        let others = (0..self.mailbox.shards())
            .map(ShardId)
            .filter(|&shard| shard != me);
        let asked: Vec<_> = others
            .map(|shard| self.step(|state| state.ask(shard, Ask::Newest(span.clone()))))
            .collect();
        let mut share = self.with_state(|state| state.share_of(span));
        for answer in asked {
            if let Some(Answer::Newest(theirs)) = answer.await {
                share = share.and(theirs);
            }
        }
        share
    }

    /// Tells another node's shard what this node leads of a span.
    pub(crate) async fn tell_share(&self, asked: Timestamp, caller: Peer, span: Arc<Span>) {
        let share = self.share_of_node(&span).await;
        self.step(|state| {
            let Some(neighbours) = &mut state.neighbours else {
                return;
            };
            let step = NewestStep::Share {
                edges: share.edges,
                newest: share.newest.into(),
            };
            let asked = asked.into();
            // It asks again.
            let _ = neighbours
                .links
                .send(caller.node, caller.shard, &Newest { asked, step });
        });
    }

    /// A timestamp above every write that any shard of a node that is alone has acknowledged. A scan over several ranges reads them all at one
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

    async fn next_page(&self, scan: &ScanParams, at: ReadAt) -> Result<Box<Page>, Refusal> {
        let deadline = self.now() + Duration::from_millis(scan.deadline_ms.into());
        let ask = PageAsk {
            start: scan.start.clone(),
            end: scan.end.clone(),
            reverse: scan.reverse,
            at,
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
        let beyond = beyond(ask, &range_span);
        let leaves = beyond.is_some();
        let resume = rows.resume.clone().or(beyond);
        Ok(Some(Box::new(Page {
            rows,
            resume,
            range_done,
            leaves,
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

impl<E: Env, B> State<E, B> {
    /// Whether the range in which the scan begins may be read here, as far as is known: it is refused before others are asked.
    fn may_begin(&self, scan: &ScanParams) -> Result<(), Refusal> {
        let refusal = match self.routes[first_position(self, scan)] {
            Route::Here(slot) => self.led_elsewhere(slot),
            Route::Nowhere => Some(Refusal::not_here()),
            Route::There(_) => None,
        };
        refusal.map_or(Ok(()), Err)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The range in which the scan begins.
fn first_position<E: Env, B>(state: &State<E, B>, scan: &ScanParams) -> usize {
    if scan.reverse {
        state.map.position_before(scan.end.as_deref())
    } else {
        state.map.position(&scan.start)
    }
}

/// Whether the scan goes on behind the range that it begins in.
fn leaves_range<E: Env, B>(state: &State<E, B>, scan: &ScanParams) -> bool {
    if scan.end.as_ref().is_some_and(|end| *end <= scan.start) {
        return false;
    }
    let span = &state.map.entries()[first_position(state, scan)].descriptor.span;
    if scan.reverse {
        return *scan.start < *span.start;
    }
    span.end
        .as_deref()
        .is_some_and(|range_end| scan.end.as_deref().is_none_or(|end| range_end < end))
}

/// Where the span goes on behind the range, if it does.
fn beyond(ask: &PageAsk, range: &Span) -> Option<Vec<u8>> {
    if ask.reverse {
        return (*ask.start < *range.start).then(|| range.start.to_vec());
    }
    let range_end = range.end.as_deref()?;
    ask.end
        .as_deref()
        .is_none_or(|end| range_end < end)
        .then(|| range_end.to_vec())
}
