//! Scans: stream after stream, page after page, all at the timestamp of the first.

use super::connection::{Connection, Inbox};
use super::reply::Reply;
use super::{Client, Tried};
use crate::history::{Action, Outcome, Row};
use base::Timestamp;
use base::api::ReadAt;
use env::{Clock, Env};
use std::rc::Rc;
use wire::request;

/// How often the streams of a scan are begun again, mostly at another node, before the whole scan begins anew.
const ELSEWHERE_MAX: u32 = 30;

impl Client {
    /// A whole scan, stream after stream; given up when the connection is. Once its timestamp is known, every range may be shown by
    /// another node.
    pub(super) async fn scan(&self, connection: &Rc<Connection>, action: &Action) -> Tried {
        let Action::Scan {
            start,
            end,
            reverse,
            at,
        } = *action
        else {
            return Tried::Ended(Outcome::Unknown);
        };
        let mut span = (self.keys.bytes(start), self.keys.end_bytes(end));
        let mut read_ts = match at {
            ReadAt::At(read_ts) => Some(read_ts),
            ReadAt::Newest | ReadAt::Ago(_) | ReadAt::Within(_) => None,
        };
        // Now and then the first rows are enough: then only the ranges that they came from promise anything.
        let limit = {
            let prng = &mut *self.prng.borrow_mut();
            if prng.chance(0.2) {
                prng.between(1, 60)
            } else {
                u64::MAX
            }
        };
        let mut rows = Vec::new();
        let (mut connection, mut elsewhere) = (connection.clone(), 0);
        loop {
            let (page_rows, page_bytes, credit) = {
                let prng = &mut *self.prng.borrow_mut();
                (prng.between(1, 40), prng.between(1, 8192), prng.between(1, 4))
            };
            let small = |value: u64| u32::try_from(value).expect("drawn below");
            let inbox = connection.send(&request::Scan {
                start: &span.0,
                end: span.1.as_deref(),
                reverse,
                at: read_ts.map_or(at, ReadAt::At).into(),
                rows_max: (limit < u64::MAX).then(|| limit.saturating_sub(rows.len() as u64)),
                page_rows: small(page_rows),
                page_bytes: small(page_bytes),
                credit_pages: small(credit),
                deadline_ms: self.habits.get().deadline_ms,
            });
            let streamed = self
                .stream(&connection, &inbox, reverse, &mut span, &mut read_ts, &mut rows)
                .await;
            let resume = match streamed {
                Ok(resume) => resume,
                Err(tried) if rows.len() as u64 >= limit || elsewhere >= ELSEWHERE_MAX => return tried,
                Err(Tried::Elsewhere) if at != ReadAt::Newest || read_ts.is_some() => {
                    elsewhere += 1;
                    let node = match at {
                        ReadAt::Newest => self.prng.borrow_mut().index(self.addresses.len()),
                        ReadAt::At(_) | ReadAt::Ago(_) | ReadAt::Within(_) => self.node_for(action),
                    };
                    let Some(other) = self.connect(node).await else {
                        return Tried::Elsewhere;
                    };
                    connection = other;
                    continue;
                }
                // It may wait for its timestamp.
                Err(Tried::Again(pause)) if read_ts.is_some() => {
                    elsewhere += 1;
                    self.env.clock().sleep(pause).await;
                    continue;
                }
                Err(tried) => return tried,
            };
            let covered = match &resume {
                None => (start, end),
                Some(resume) if reverse => (self.keys.lower_bound(resume), end),
                Some(resume) => (start, self.keys.lower_bound(resume)),
            };
            if resume.is_none() || rows.len() as u64 >= limit {
                return Tried::Ended(Outcome::Rows {
                    read_ts: read_ts.unwrap_or_default(),
                    rows,
                    covered,
                });
            }
        }
    }

    /// One stream of a scan: its pages until the last. Returns where the rest of the span begins.
    async fn stream(
        &self,
        connection: &Rc<Connection>,
        inbox: &Rc<Inbox>,
        reverse: bool,
        span: &mut (Vec<u8>, Option<Vec<u8>>),
        read_ts: &mut Option<Timestamp>,
        rows: &mut Vec<Row>,
    ) -> Result<Option<Vec<u8>>, Tried> {
        loop {
            let page = match self.next(connection, inbox).await? {
                Reply::Page(page) => page,
                Reply::Refused { code, retry_after } => {
                    let action = Action::Status;
                    return Err(self.refused(&action, code, retry_after));
                }
                reply => {
                    self.violation(format!("a scan was answered by {reply:?}"));
                    return Err(Tried::Lost);
                }
            };
            if read_ts.is_some_and(|read_ts| read_ts != page.read_ts) {
                self.violation(format!("a scan at {read_ts:?} goes on at {}", page.read_ts));
            }
            *read_ts = Some(page.read_ts);
            for (key, value, ts) in &page.rows {
                let Some(key) = self.keys.number(key) else {
                    self.violation(format!(
                        "a scan found a key that nobody wrote: {}",
                        key.escape_ascii()
                    ));
                    continue;
                };
                if let Some(value) = self.read(key, value) {
                    rows.push(Row { key, value, ts: *ts });
                }
            }
            match &page.resume {
                Some(resume) if reverse => span.1 = Some(resume.clone()),
                Some(resume) => span.0.clone_from(resume),
                None => {}
            }
            if page.done {
                return Ok(page.resume);
            }
            connection.credit(inbox.request(), 1);
        }
    }
}
