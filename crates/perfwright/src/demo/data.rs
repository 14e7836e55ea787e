//! The shop's data: SQLite, seeded the same way each time.

use anyhow::Result;
use rusqlite::{Connection, params};
use std::path::Path;
use std::time::Duration;

const CUSTOMERS: u32 = 2_000;
const ORDERS: u32 = 12_000;
/// Unindexed by order, so that looking one order's items up scans them all.
const ITEMS: u32 = 60_000;
const PRODUCTS: u32 = 400;

const SCHEMA: &str = "
    pragma journal_mode = wal;
    create table customers(id integer primary key, name text, email text);
    create table orders(id integer primary key, customer_id integer, placed text, state text);
    create table order_items(order_id integer, product_id integer, quantity integer, note text);
    create table products(id integer primary key, name text, price_cents integer, stock integer);
    create table settings(key text, value text);";

/// Opens a connection, as the shop's pool does.
pub(super) fn open(folder: &Path) -> Result<Connection> {
    let connection = Connection::open(folder.join("shop.db"))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// Creates and fills the database when it is not there yet.
pub(super) fn seed(folder: &Path) -> Result<()> {
    let mut connection = open(folder)?;
    let tables: u32 =
        connection.query_row("select count(*) from sqlite_master", [], |row| row.get(0))?;
    if tables > 0 {
        return Ok(());
    }
    connection.execute_batch(SCHEMA)?;
    let all = connection.transaction()?;
    {
        let mut customer = all.prepare("insert into customers values (?1, ?2, ?3)")?;
        for id in 0..CUSTOMERS {
            customer.execute(params![
                id,
                format!("Customer {id}"),
                format!("customer{id}@example.org")
            ])?;
        }
        let mut order = all.prepare("insert into orders values (?1, ?2, ?3, ?4)")?;
        for id in 0..ORDERS {
            let day = format!("2026-{:02}-{:02}", 1 + id % 12, 1 + id % 28);
            let state = ["new", "paid", "sent"][id as usize % 3];
            order.execute(params![id, id * 7 % CUSTOMERS, day, state])?;
        }
        let mut item = all.prepare("insert into order_items values (?1, ?2, ?3, ?4)")?;
        for id in 0..ITEMS {
            let note = format!("item {id} of order {}", id % ORDERS);
            item.execute(params![id % ORDERS, id * 13 % PRODUCTS, 1 + id % 5, note])?;
        }
        let mut product = all.prepare("insert into products values (?1, ?2, ?3, ?4)")?;
        for id in 0..PRODUCTS {
            product.execute(params![
                id,
                format!("Product {id}"),
                199 + id * 37 % 9_000,
                id % 50
            ])?;
        }
        let mut setting = all.prepare("insert into settings values (?1, ?2)")?;
        for id in 0..20_000 {
            setting.execute(params![format!("key.{id}"), format!("value {id}")])?;
        }
    }
    all.commit()?;
    Ok(())
}
