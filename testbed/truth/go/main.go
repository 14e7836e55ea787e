// Truth service, Go: executes the plan in `p` and answers with what it cost, measured inside.
// The plan grammar and the answer are described in ../README.md; the statements in ../statements.json.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	host        = "127.0.0.1"
	poolSize    = 10
	scanRowsMax = 300000
)

// Step is one node of a plan.
type Step struct {
	Op        string  `json:"op"`
	Steps     []*Step `json:"steps"`
	Ms        float64 `json:"ms"`
	Slices    int     `json:"slices"`
	DB        string  `json:"db"`
	Shape     string  `json:"shape"`
	N         int     `json:"n"`
	Rows      int     `json:"rows"`
	Pipelined bool    `json:"pipelined"`
	Path      string  `json:"path"`
	Bytes     int     `json:"bytes"`
}

// Operation is what one leaf of the plan did; times are nanoseconds since the request began.
type Operation struct {
	Kind      string  `json:"kind"`
	DB        string  `json:"db,omitempty"`
	Shape     string  `json:"shape,omitempty"`
	Pipelined bool    `json:"pipelined,omitempty"`
	N         int     `json:"n"`
	Start     int64   `json:"start"`
	End       int64   `json:"end"`
	CPU       int64   `json:"cpu,omitempty"`
	Calls     []int64 `json:"calls,omitempty"`
}

// Truth is what one request did: its operations, and (time, CPU) at each of their edges.
type Truth struct {
	start time.Time
	cpu   int64
	lock  sync.Mutex
	ops   []*Operation
	marks [][2]int64
}

func newTruth() *Truth {
	truth := &Truth{start: time.Now(), cpu: clock(unix.CLOCK_PROCESS_CPUTIME_ID)}
	truth.mark()
	return truth
}

func (t *Truth) now() int64 { return time.Since(t.start).Nanoseconds() }

func (t *Truth) mark() int64 {
	t.lock.Lock()
	defer t.lock.Unlock()
	now := t.now()
	t.marks = append(t.marks, [2]int64{now, clock(unix.CLOCK_PROCESS_CPUTIME_ID) - t.cpu})
	return now
}

func (t *Truth) add(op *Operation) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.ops = append(t.ops, op)
}

func clock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// run executes a step. The first error ends the plan.
func run(ctx context.Context, step *Step, truth *Truth, overlapped bool) error {
	switch step.Op {
	case "serial":
		for _, inner := range step.Steps {
			if err := run(ctx, inner, truth, overlapped); err != nil {
				return err
			}
		}
		return nil
	case "parallel":
		failures := make(chan error, len(step.Steps))
		for _, inner := range step.Steps {
			go func() { failures <- run(ctx, inner, truth, true) }()
		}
		var first error
		for range step.Steps {
			if err := <-failures; err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	return runOperation(ctx, step, truth, overlapped)
}

func runOperation(ctx context.Context, step *Step, truth *Truth, overlapped bool) error {
	operation, known := operations[step.Op]
	if !known {
		return fmt.Errorf("no operation called %q", step.Op)
	}
	op := &Operation{Kind: step.Op, DB: step.DB, Shape: step.Shape, Pipelined: step.Pipelined, Start: truth.mark()}
	truth.add(op)
	timed := func(call func() error) error {
		// the single calls are needed only where another operation may overlap them
		if !overlapped {
			return call()
		}
		start := truth.now()
		err := call()
		op.Calls = append(op.Calls, start, truth.now())
		return err
	}
	n, cpu, err := operation(ctx, step, timed)
	op.N, op.CPU = n, cpu
	op.End = truth.mark()
	return err
}

// resize applies `size`, the page size a caller asks for: it replaces n of every list-shaped operation.
func resize(step *Step, size int) {
	for _, inner := range step.Steps {
		resize(inner, size)
	}
	if step.Shape == "n_plus_one" || step.Shape == "batched" {
		step.N = size
	}
}

func servePlan(w http.ResponseWriter, r *http.Request, ticket int) {
	start, truth := clock(unix.CLOCK_MONOTONIC), newTruth()
	parameters := r.URL.Query()
	var plan Step
	if err := json.Unmarshal([]byte(parameters.Get("p")), &plan); err != nil {
		answer(w, http.StatusInternalServerError, map[string]any{"error": err.Error()})
		return
	}
	if size, err := strconv.Atoi(parameters.Get("size")); err == nil {
		resize(&plan, size)
	}
	if err := run(r.Context(), &plan, truth, false); err != nil {
		log.Print(err)
		answer(w, http.StatusInternalServerError, map[string]any{"error": err.Error()})
		return
	}
	total := truth.mark()
	body := &Answer{"go", os.Getpid(), total, truth.ops, truth.marks}
	if slices.ContainsFunc(truth.ops, func(op *Operation) bool { return op.Kind == "pieces" }) {
		w = pieces{w, r}
	}
	answer(w, http.StatusOK, body)
	remember("?"+r.URL.RawQuery, start, body, ticket)
}

func answer(w http.ResponseWriter, status int, body any) {
	bytes, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(bytes)))
	w.WriteHeader(status)
	_, _ = w.Write(bytes) // the client went away: nobody is left to tell
}

type connectionKey struct{}

// pieces sends the head at once, with Nagle's algorithm on for what follows.
type pieces struct {
	http.ResponseWriter
	request *http.Request
}

func (p pieces) WriteHeader(status int) {
	p.ResponseWriter.WriteHeader(status)
	if tcp, ok := p.request.Context().Value(connectionKey{}).(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(false) // the client went away: nobody is left to tell
	}
	_ = http.NewResponseController(p.ResponseWriter).Flush()
}

func ok(w http.ResponseWriter, _ *http.Request, _ int) {
	answer(w, http.StatusOK, map[string]any{"ok": true})
}

func main() {
	if err := connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/plan", counted(servePlan))
	http.HandleFunc("/served", counted(serveServed))
	http.HandleFunc("/nop", counted(ok))
	http.HandleFunc("/health", counted(ok))
	server := http.Server{
		Addr: setting("TESTBED_BIND", host) + ":" + setting("PORT", "25300"),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, c)
		},
	}
	log.Fatal(server.ListenAndServe())
}
