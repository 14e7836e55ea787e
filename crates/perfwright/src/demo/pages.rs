//! The pages. Each does its work for real: slow statements scan, syncs sync, CPU burns.

use super::Shop;
use super::supplier::SupplierClient;
use super::tracer::RequestTrace;
use anyhow::Result;
use rusqlite::{Connection, ToSql, params};
use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// Renders a page; `None` when there is none of that path.
pub(super) fn render(
    shop: &Shop,
    db: &Connection,
    trace: &mut RequestTrace,
    path: &str,
    query: &str,
) -> Result<Option<String>> {
    let limit = limit_of(query, 60);
    Ok(Some(match path {
        "/orders" => orders(db, trace, limit)?,
        "/report" => report(db, trace)?,
        "/prices" => prices(shop, trace)?,
        "/invoice" => invoice(db, trace)?,
        "/checkout" => checkout(db, trace)?,
        "/export" => export(shop, db, trace)?,
        "/settings" => settings(db, trace)?,
        "/products" => products(db, trace, limit_of(query, 20))?,
        "/health" => r#"{"ok":true}"#.to_string(),
        _ => return Ok(None),
    }))
}

fn limit_of(query: &str, default: u32) -> u32 {
    let given = query.split('&').find_map(|p| p.strip_prefix("limit="));
    given.and_then(|v| v.parse().ok()).unwrap_or(default).min(500)
}

/// Runs a statement and returns the rows as text, with a span that says where it was issued.
#[track_caller]
fn rows(
    db: &Connection,
    trace: &mut RequestTrace,
    function: &'static str,
    sql: &'static str,
    parameters: &[&dyn ToSql],
) -> Result<Vec<Vec<String>>> {
    let line = std::panic::Location::caller().line();
    let mut statement = db.prepare_cached(sql)?;
    let columns = statement.column_count();
    let span = trace.open();
    let rows = statement
        .query_map(parameters, |row| {
            (0..columns).map(|c| row.get_ref(c).map(text)).collect::<rusqlite::Result<Vec<_>>>()
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let values: Vec<String> = parameters
        .iter()
        .map(|p| p.to_sql().map(|v| shown(&v)))
        .collect::<rusqlite::Result<_>>()?;
    trace.statement(span, (sql, &values), rows.len(), (file!(), line, function));
    Ok(rows)
}

/// A parameter as text.
fn shown(value: &rusqlite::types::ToSqlOutput) -> String {
    use rusqlite::types::ToSqlOutput as V;
    match value {
        V::Borrowed(value) => text(*value),
        V::Owned(value) => text(value.into()),
        _ => String::new(),
    }
}

fn text(value: rusqlite::types::ValueRef) -> String {
    use rusqlite::types::ValueRef as V;
    match value {
        V::Null => String::new(),
        V::Integer(n) => n.to_string(),
        V::Real(n) => n.to_string(),
        V::Text(t) | V::Blob(t) => String::from_utf8_lossy(t).into_owned(),
    }
}

/// One statement for the list, then one for each order: N+1.
fn orders(db: &Connection, trace: &mut RequestTrace, limit: u32) -> Result<String> {
    let list = rows(
        db,
        trace,
        "orders",
        "select id, customer_id, placed from orders order by id desc limit ?1",
        &[&limit],
    )?;
    let mut out = Vec::new();
    for order in list {
        let items = rows(
            db,
            trace,
            "orders",
            "select product_id, quantity from order_items where order_id = ?1",
            &[&order[0].parse::<u32>()?],
        )?;
        out.push(serde_json::json!({ "id": order[0], "placed": order[2], "items": items.len() }));
    }
    Ok(serde_json::to_string(&out)?)
}

/// One statement that looks at everything.
fn report(db: &Connection, trace: &mut RequestTrace) -> Result<String> {
    let found = rows(
        db,
        trace,
        "report",
        "select c.name, count(*), sum(i.quantity) from order_items i \
         join orders o on o.id = i.order_id join customers c on c.id = o.customer_id \
         where i.note like '%9%' or upper(i.note) like '%ORDER 1%' \
         group by c.name order by 3 desc limit 10",
        &[],
    )?;
    Ok(serde_json::to_string(&found)?)
}

/// Asks the supplier for one price after the other, though none needs another's answer.
fn prices(shop: &Shop, trace: &mut RequestTrace) -> Result<String> {
    let mut client = SupplierClient::connect(shop.supplier)?;
    let mut out = Vec::new();
    for product in 1..=6 {
        let span = trace.open();
        out.push(client.price(product)?);
        let path = format!("/price/{product}");
        trace.request(span, shop.supplier, &path, (file!(), line!(), "prices"));
    }
    Ok(format!("[{}]", out.join(",")))
}

/// Lays out an invoice, expensively.
fn invoice(db: &Connection, trace: &mut RequestTrace) -> Result<String> {
    let found = rows(
        db,
        trace,
        "invoice",
        "select name, price_cents from products order by id limit ?1",
        &[&40],
    )?;
    let sum = lay_out_invoice(&found);
    Ok(serde_json::json!({ "lines": found.len(), "checksum": sum }).to_string())
}

/// Burns about a hundred milliseconds of CPU.
#[inline(never)]
fn lay_out_invoice(lines: &[Vec<String>]) -> u64 {
    let mut sum = 0u64;
    for round in 0..36_000u64 {
        for line in lines {
            for byte in line[0].bytes() {
                sum = sum.rotate_left(5) ^ u64::from(byte).wrapping_mul(round | 1);
            }
        }
        sum = std::hint::black_box(sum);
    }
    sum
}

/// Waits a fixed time before it tries the payment again.
fn checkout(db: &Connection, trace: &mut RequestTrace) -> Result<String> {
    let cart =
        rows(db, trace, "checkout", "select count(*) from products where stock > ?1", &[&0])?;
    std::thread::sleep(Duration::from_millis(180));
    Ok(serde_json::json!({ "paid": true, "in_stock": cart[0][0] }).to_string())
}

/// Writes a line, syncs, writes the next.
fn export(shop: &Shop, db: &Connection, trace: &mut RequestTrace) -> Result<String> {
    let list =
        rows(db, trace, "export", "select id, placed from orders order by id limit ?1", &[&200])?;
    let name = format!("export-{:?}.csv", std::thread::current().id());
    let mut file = File::create(shop.folder.join(name.replace(['(', ')'], "")))?;
    for order in &list {
        writeln!(file, "{},{}", order[0], order[1])?;
        file.sync_all()?;
    }
    Ok(serde_json::json!({ "exported": list.len() }).to_string())
}

/// Reads the same setting each time it is needed.
fn settings(db: &Connection, trace: &mut RequestTrace) -> Result<String> {
    let mut out = Vec::new();
    for field in 0..50 {
        let currency = rows(
            db,
            trace,
            "settings",
            "select value from settings where key = ?1",
            params!["key.19990"],
        )?;
        out.push(format!("{field}:{}", currency[0][0]));
    }
    Ok(serde_json::to_string(&out)?)
}

/// A list as it should be.
fn products(db: &Connection, trace: &mut RequestTrace, limit: u32) -> Result<String> {
    let found = rows(
        db,
        trace,
        "products",
        "select id, name, price_cents from products order by id limit ?1",
        &[&limit],
    )?;
    Ok(serde_json::to_string(&found)?)
}
