package main

import (
	"net/http"
	"os"
	"sync"
)

const servedMax = 4000

// Answer is the body of a served plan.
type Answer struct {
	Runtime string       `json:"runtime"`
	Pid     int          `json:"pid"`
	Total   int64        `json:"total"`
	Ops     []*Operation `json:"ops"`
	Marks   [][2]int64   `json:"marks"`
}

type servedRequest struct {
	URL    string  `json:"url"`
	Start  int64   `json:"start"`
	Alone  bool    `json:"alone"`
	Answer *Answer `json:"answer"`
}

// served keeps the last answers, for a driver that wants the truth of requests somebody else sent.
var served struct {
	sync.Mutex
	last     []servedRequest
	inFlight int
	arrivals int
}

// begin returns the arrivals so far if nobody else is being served, else 0.
func begin() int {
	served.Lock()
	defer served.Unlock()
	served.inFlight++
	served.arrivals++
	if served.inFlight == 1 {
		return served.arrivals
	}
	return 0
}

func remember(url string, start int64, body *Answer, ticket int) {
	served.Lock()
	defer served.Unlock()
	if len(served.last) == servedMax {
		served.last = served.last[1:]
	}
	served.last = append(served.last, servedRequest{url, start, ticket == served.arrivals, body})
}

// counted wraps a handler so that overlapping requests are known.
func counted(handler func(http.ResponseWriter, *http.Request, int)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ticket := begin()
		defer func() {
			served.Lock()
			served.inFlight--
			served.Unlock()
		}()
		handler(w, r, ticket)
	}
}

func serveServed(w http.ResponseWriter, _ *http.Request, _ int) {
	served.Lock()
	last := append([]servedRequest{}, served.last...)
	served.Unlock()
	answer(w, http.StatusOK, map[string]any{"pid": os.Getpid(), "served": last})
}
