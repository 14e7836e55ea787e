package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

type details struct {
	Parent  string `json:"parent"`
	Parents int    `json:"parents"`
	Child   string `json:"child"`
	Batched string `json:"batched"`
}

type variedStatement struct {
	sql  string
	keys int
}

// UnmarshalJSON reads the pair [statement, number of keys].
func (v *variedStatement) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&v.sql, &v.keys})
}

var statements struct {
	One        details           `json:"one"`
	Many       details           `json:"many"`
	Repeat     string            `json:"repeat"`
	RepeatMany string            `json:"repeat_many"`
	Varied     []variedStatement `json:"varied"`
	Scan       []string          `json:"scan"`
}

var (
	postgres        *pgxpool.Pool
	mariadb         *sql.DB
	redisClient     *redis.Client
	memcachedClient *memcache.Client
	supplier        string
	filesDir        = filepath.Join(setting("PERFWRIGHT_TESTBED_DIR", "/var/tmp"), "files")
	httpClient      = &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Hour, DisableCompression: true,
	}}
)

func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

// connect opens every pooled connection, so that no request pays for one. A missing peer is only reported.
func connect(ctx context.Context) error {
	text, err := os.ReadFile(setting("TESTBED_STATEMENTS", "statements.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &statements); err != nil {
		return err
	}
	if err := os.MkdirAll(filesDir, 0o755); err != nil {
		return err
	}
	supplier = "http://" + host + ":" + setting("TESTBED_SUPPLIER_PORT", "25080")
	dsn := os.Getenv("TESTBED_PG_DSN") + fmt.Sprintf("&pool_max_conns=%d&pool_min_conns=%[1]d", poolSize)
	if postgres, err = pgxpool.New(ctx, dsn); err != nil {
		return err
	}
	if mariadb, err = openMariaDB(os.Getenv("TESTBED_MYSQL_DSN")); err != nil {
		return err
	}
	redisClient = redis.NewClient(&redis.Options{
		Addr: host + ":" + setting("TESTBED_REDIS_PORT", "26379"), PoolSize: poolSize, MinIdleConns: poolSize,
	})
	memcachedClient = memcache.New(host + ":" + setting("TESTBED_MEMCACHED_PORT", "21211"))
	memcachedClient.MaxIdleConns = poolSize
	warm("postgres", func() error { _, err := postgres.Exec(ctx, "select pg_sleep(0.05)"); return err })
	warm("mariadb", func() error { _, err := mariadb.ExecContext(ctx, "do sleep(0.05)"); return err })
	warm("redis", func() error { return redisClient.Ping(ctx).Err() })
	warm("memcached", func() error { _, err := memcachedClient.Get("k1"); return err })
	warm("supplier", func() error { return httpGet(ctx, "/quote?ms=20") })
	return nil
}

func openMariaDB(dsn string) (*sql.DB, error) {
	parsed, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	// interpolated: one round trip a statement; without it the driver prepares and closes around each
	db, err := sql.Open("mysql", fmt.Sprintf("%s@tcp(%s)%s?interpolateParams=true", parsed.User, parsed.Host, parsed.Path))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(poolSize)
	db.SetMaxIdleConns(poolSize)
	return db, nil
}

func warm(name string, open func() error) {
	var group sync.WaitGroup
	var once sync.Once
	for range poolSize {
		group.Go(func() {
			if err := open(); err != nil {
				once.Do(func() { log.Printf("%s is not reachable: %v", name, err) })
			}
		})
	}
	group.Wait()
}

// query returns the second column of each row where it is a whole number.
func query(ctx context.Context, db, sql string, values ...any) ([]int32, error) {
	if db == "mysql" {
		return queryMariaDB(ctx, strings.ReplaceAll(sql, "{}", "?"), values)
	}
	for n := 1; strings.Contains(sql, "{}"); n++ {
		sql = strings.Replace(sql, "{}", "$"+strconv.Itoa(n), 1)
	}
	rows, err := postgres.Query(ctx, sql, values...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var seconds []int32
	for rows.Next() {
		columns, err := rows.Values()
		if err != nil {
			return nil, err
		}
		if len(columns) > 1 {
			if second, whole := columns[1].(int32); whole {
				seconds = append(seconds, second)
			}
		}
	}
	return seconds, rows.Err()
}

func queryMariaDB(ctx context.Context, text string, values []any) ([]int32, error) {
	rows, err := mariadb.QueryContext(ctx, text, values...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	raw, targets := make([]sql.RawBytes, len(names)), make([]any, len(names))
	for i := range raw {
		targets[i] = &raw[i]
	}
	var seconds []int32
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		if len(raw) > 1 {
			if second, err := strconv.ParseInt(string(raw[1]), 10, 32); err == nil {
				seconds = append(seconds, int32(second))
			}
		}
	}
	return seconds, rows.Err()
}

func queryAny(ctx context.Context, db, text string, keys []int32) error {
	if db != "mysql" {
		_, err := query(ctx, db, text, keys)
		return err
	}
	values := make([]any, len(keys))
	for i, key := range keys {
		values[i] = key
	}
	list := "in (" + strings.TrimSuffix(strings.Repeat("{}, ", len(keys)), ", ") + ")"
	_, err := query(ctx, db, strings.Replace(text, "= any({})", list, 1), values...)
	return err
}

func httpGet(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, supplier+path, nil)
	if err != nil {
		return err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
