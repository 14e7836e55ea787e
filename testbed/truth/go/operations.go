package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

type timer = func(call func() error) error

// An operation returns how many calls it made and the CPU time its thread used (only `cpu` knows it).
type operation = func(context.Context, *Step, timer) (n int, cpu int64, err error)

var operations = map[string]operation{
	"cpu": opCPU, "sql": opSQL, "redis": opRedis, "memcached": opMemcached,
	"http": opHTTP, "sleep": opSleep, "fsync": opFsync, "pieces": opPieces,
}

var shapes = map[string]func(context.Context, *Step, timer) (int, error){
	"n_plus_one": nPlusOne, "batched": batched, "repeat": repeat, "varied": varied, "scan": scan,
}

func keyOf() string { return "k" + strconv.Itoa(1+rand.IntN(200)) }

// burn_cpu burns this thread's CPU time, not wall time: on a busy machine it takes longer and still
// costs ms. Its name is the same in every truth service: a profile must find it.
//
//go:noinline
func burn_cpu(ms float64) uint32 {
	until := clock(unix.CLOCK_THREAD_CPUTIME_ID) + int64(ms*1e6)
	digest := uint32(2166136261)
	for clock(unix.CLOCK_THREAD_CPUTIME_ID) < until {
		for i := uint32(0); i < 10000; i++ {
			digest = (digest ^ i&255) * 16777619
		}
	}
	return digest
}

var digests atomic.Uint32 // keeps the work of burn_cpu from being optimised away

func opCPU(_ context.Context, step *Step, _ timer) (int, int64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := clock(unix.CLOCK_THREAD_CPUTIME_ID)
	slices := max(step.Slices, 1)
	for i := range slices {
		if i > 0 {
			runtime.Gosched()
		}
		digests.Store(burn_cpu(step.Ms / float64(slices)))
	}
	return slices, clock(unix.CLOCK_THREAD_CPUTIME_ID) - start, nil
}

// opPieces does nothing now: the answer will leave in two pieces, see pieces.
func opPieces(context.Context, *Step, timer) (int, int64, error) { return 1, 0, nil }

func opSQL(ctx context.Context, step *Step, timed timer) (int, int64, error) {
	shape, known := shapes[step.Shape]
	if !known {
		return 0, 0, fmt.Errorf("no shape called %q", step.Shape)
	}
	n, err := shape(ctx, step, timed)
	return n, 0, err
}

func family(step *Step) details {
	if step.Rows > 1 {
		return statements.Many
	}
	return statements.One
}

// parentKeys runs the list statement and returns the keys of its rows' details.
func parentKeys(ctx context.Context, step *Step, timed timer) (keys []int32, err error) {
	first := 1 + rand.IntN(family(step).Parents-step.N)
	err = timed(func() error {
		keys, err = query(ctx, step.DB, family(step).Parent, first, first+step.N-1)
		return err
	})
	return keys, err
}

func nPlusOne(ctx context.Context, step *Step, timed timer) (int, error) {
	keys, err := parentKeys(ctx, step, timed)
	for i := 0; i < len(keys) && err == nil; i++ {
		values := []any{keys[i]}
		if step.Rows > 1 {
			values = append(values, step.Rows)
		}
		err = timed(func() error { _, err := query(ctx, step.DB, family(step).Child, values...); return err })
	}
	return 1 + len(keys), err
}

func batched(ctx context.Context, step *Step, timed timer) (int, error) {
	keys, err := parentKeys(ctx, step, timed)
	if err != nil {
		return 1, err
	}
	return 2, timed(func() error { return queryAny(ctx, step.DB, family(step).Batched, keys) })
}

func repeat(ctx context.Context, step *Step, timed timer) (int, error) {
	sql, values := statements.Repeat, []any{1 + rand.IntN(5000)}
	if step.Rows > 1 {
		sql, values = statements.RepeatMany, append(values, step.Rows)
	}
	for range step.N {
		err := timed(func() error { _, err := query(ctx, step.DB, sql, values...); return err })
		if err != nil {
			return 0, err
		}
	}
	return step.N, nil
}

func varied(ctx context.Context, step *Step, timed timer) (int, error) {
	for i := range step.N {
		statement := statements.Varied[i%len(statements.Varied)]
		key := 1 + rand.IntN(statement.keys)
		err := timed(func() error { _, err := query(ctx, step.DB, statement.sql, key); return err })
		if err != nil {
			return 0, err
		}
	}
	return step.N, nil
}

func scan(ctx context.Context, step *Step, timed timer) (int, error) {
	sql, rows := scanFor(step.DB, step.Ms)
	for range max(step.N, 1) {
		value := strconv.FormatInt(rand.Int64N(1<<30), 16)
		err := timed(func() error { _, err := query(ctx, step.DB, sql, rows, value); return err })
		if err != nil {
			return 0, err
		}
	}
	return max(step.N, 1), nil
}

// scanFor gives the cheapest unindexed statement that takes about ms on the server, and the rows it must visit.
func scanFor(db string, ms float64) (sql string, rows int) {
	list := setting("TESTBED_SCAN_PG", "15000,3500,1500")
	if db == "mysql" {
		list = setting("TESTBED_SCAN_MYSQL", "5000,1800,900")
	}
	var rate float64
	form := -1
	for i, text := range strings.Split(list, ",") {
		parsed, err := strconv.ParseFloat(text, 64)
		if err != nil {
			panic(err)
		}
		rate, form = parsed, i
		if ms*rate <= scanRowsMax {
			break
		}
	}
	return statements.Scan[form], min(scanRowsMax, int(math.Round(ms*rate)))
}

func opRedis(ctx context.Context, step *Step, timed timer) (int, int64, error) {
	if step.Pipelined {
		pipeline := redisClient.Pipeline()
		for range step.N {
			pipeline.Get(ctx, keyOf())
		}
		return step.N, 0, timed(func() error { _, err := pipeline.Exec(ctx); return err })
	}
	for range step.N {
		if err := timed(func() error { return redisClient.Get(ctx, keyOf()).Err() }); err != nil {
			return 0, 0, err
		}
	}
	return step.N, 0, nil
}

func opMemcached(_ context.Context, step *Step, timed timer) (int, int64, error) {
	if step.Pipelined {
		keys := make([]string, step.N)
		for i := range keys {
			keys[i] = "k" + strconv.Itoa(1+i%200)
		}
		return step.N, 0, timed(func() error { _, err := memcachedClient.GetMulti(keys); return err })
	}
	for range step.N {
		if err := timed(func() error { _, err := memcachedClient.Get(keyOf()); return err }); err != nil {
			return 0, 0, err
		}
	}
	return step.N, 0, nil
}

func opHTTP(ctx context.Context, step *Step, timed timer) (int, int64, error) {
	path := step.Path
	if path == "" {
		path = "quote"
	}
	for range max(step.N, 1) {
		url := fmt.Sprintf("/%s?ms=%g", path, step.Ms)
		if err := timed(func() error { return httpGet(ctx, url) }); err != nil {
			return 0, 0, err
		}
	}
	return max(step.N, 1), 0, nil
}

func opSleep(_ context.Context, step *Step, timed timer) (int, int64, error) {
	return 1, 0, timed(func() error { time.Sleep(time.Duration(step.Ms * 1e6)); return nil })
}

var fileNumber atomic.Int64

func opFsync(_ context.Context, step *Step, timed timer) (int, int64, error) {
	size := step.Bytes
	if size == 0 {
		size = 4096
	}
	file, err := os.Create(filepath.Join(filesDir, fmt.Sprintf("go-%d-%d", os.Getpid(), fileNumber.Add(1)%16)))
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	block := []byte(strings.Repeat("x", size))
	for range max(step.N, 1) {
		err := timed(func() error {
			if _, err := file.Write(block); err != nil {
				return err
			}
			return file.Sync()
		})
		if err != nil {
			return 0, 0, err
		}
	}
	return max(step.N, 1), 0, nil
}
