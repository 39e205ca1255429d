//! The example's business: a trip is a payment, a seat of a flight and a room. Numbers are decimal text.
//!
//! | key | value |
//! |---|---|
//! | `account/NAME` | money; nothing is made nor lost, whatever becomes of trips |
//! | `flight/CITY/free`, `hotel/CITY/free` | seats and rooms that nobody has |
//! | `flight/CITY/for/SAGA`, `hotel/CITY/for/SAGA` | whose seat or room it is; with the free ones always as many |

use crate::runner::{Failure, Saga, Step};
use corelane::blocking::{Db, Txn};
use corelane::{Error, prefix};

/// What a trip consists of. The money comes first: it is the most likely to be refused.
pub(crate) const STEPS: [Step; 3] = [
    Step {
        name: "payment",
        act: |txn, saga| {
            let Trip { traveller, price, .. } = Trip::of(saga)?;
            if number(txn.get_for_update(account(traveller))?) < price {
                return Err(Failure::Refused(format!("{traveller} cannot pay {price}")));
            }
            Ok(transfer(txn, traveller, AGENCY, price)?)
        },
        undo: |txn, saga| match Trip::parse(&saga.input) {
            Some(Trip { traveller, price, .. }) => transfer(txn, AGENCY, traveller, price),
            None => Ok(()),
        },
    },
    Step {
        name: "flight",
        act: |txn, saga| take(txn, "flight", saga),
        undo: |txn, saga| give_back(txn, "flight", saga),
    },
    Step {
        name: "hotel",
        act: |txn, saga| take(txn, "hotel", saga),
        undo: |txn, saga| give_back(txn, "hotel", saga),
    },
];

/// Whose account trips are paid to.
const AGENCY: &str = "agency";
const TRAVELLERS: [&str; 4] = ["ada", "grace", "edsger", "barbara"];
const MONEY: i64 = 2000;
const CITIES: [(&str, i64, i64); 2] = [("oslo", 30, 20), ("rio", 20, 30)];

/// What a saga is begun with: `TRAVELLER,CITY,PRICE`.
struct Trip<'a> {
    traveller: &'a str,
    city: &'a str,
    price: i64,
}

impl<'a> Trip<'a> {
    fn parse(input: &'a str) -> Option<Self> {
        let mut fields = input.split(',');
        Some(Self {
            traveller: fields.next()?,
            city: fields.next()?,
            price: fields.next()?.parse().ok().filter(|&price| price >= 0)?,
        })
    }

    fn of(saga: &'a Saga) -> Result<Self, Failure> {
        let trip = Self::parse(&saga.input);
        trip.ok_or_else(|| Failure::Refused(format!("{:?} is no trip", saga.input)))
    }
}

fn account(name: &str) -> String {
    format!("account/{name}")
}

fn number(value: Option<Vec<u8>>) -> i64 {
    let text = value.and_then(|value| String::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn add(txn: &Txn, key: &str, what: i64) -> Result<(), Error> {
    let before = number(txn.get_for_update(key)?);
    txn.put(key, (before + what).to_string())
}

fn transfer(txn: &Txn, from: &str, to: &str, amount: i64) -> Result<(), Error> {
    add(txn, &account(from), -amount)?;
    add(txn, &account(to), amount)
}

/// Takes a seat or a room.
fn take(txn: &Txn, what: &str, saga: &Saga) -> Result<(), Failure> {
    let Trip { traveller, city, .. } = Trip::of(saga)?;
    let free = format!("{what}/{city}/free");
    if number(txn.get_for_update(&free)?) == 0 {
        return Err(Failure::Refused(format!("nothing is free in {city}")));
    }
    add(txn, &free, -1)?;
    Ok(txn.put(format!("{what}/{city}/for/{}", saga.id), traveller)?)
}

fn give_back(txn: &Txn, what: &str, saga: &Saga) -> Result<(), Error> {
    let Some(Trip { city, .. }) = Trip::parse(&saga.input) else {
        return Ok(());
    };
    txn.delete(format!("{what}/{city}/for/{}", saga.id))?;
    add(txn, &format!("{what}/{city}/free"), 1)
}

/// Accounts, flights and hotels, as they are before the first trip.
pub(crate) fn set_up(db: &Db) -> Result<(), Error> {
    db.transaction(|txn| {
        txn.put(account(AGENCY), "0")?;
        for traveller in TRAVELLERS {
            txn.put(account(traveller), MONEY.to_string())?;
        }
        for (city, seats, rooms) in CITIES {
            txn.put(format!("flight/{city}/free"), seats.to_string())?;
            txn.put(format!("hotel/{city}/free"), rooms.to_string())?;
        }
        Ok(())
    })
}

/// What never changes, seen at one moment, also while trips are being booked: money, seats and rooms.
pub(crate) fn totals(db: &Db) -> Result<[i64; 3], Error> {
    db.transaction(|txn| {
        let mut totals = [0; 3];
        for (total, what) in totals.iter_mut().zip(["account/", "flight/", "hotel/"]) {
            for (key, value) in txn.scan(prefix(what), usize::MAX)? {
                let is_taken = String::from_utf8_lossy(&key).contains("/for/");
                *total += if is_taken { 1 } else { number(Some(value)) };
            }
        }
        Ok(totals)
    })
}
