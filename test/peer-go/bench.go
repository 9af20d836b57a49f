package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// benchResult is what bench prints.
type benchResult struct {
	CallsPerSecond float64 `json:"callsPerSecond"`
	P50Micros      float64 `json:"p50Us"`
	P99Micros      float64 `json:"p99Us"`
}

func bench(path string, flight, calls int) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	in := wrapperspb.Bytes(make([]byte, 100))

	// A tenth of the calls warms both ends up.
	if _, err := repeat(client, in, flight, calls/10+1); err != nil {
		return err
	}
	start := time.Now()
	micros, err := repeat(client, in, flight, calls)
	if err != nil {
		return err
	}
	elapsed := time.Since(start)
	slices.Sort(micros)
	return json.NewEncoder(os.Stdout).Encode(benchResult{
		CallsPerSecond: float64(len(micros)) / elapsed.Seconds(),
		P50Micros:      micros[len(micros)/2],
		P99Micros:      micros[len(micros)*99/100],
	})
}

// repeat makes so many calls with so many in flight and returns how long each took.
func repeat(client *ttrpc.Client, in *wrapperspb.BytesValue, flight, calls int) ([]float64, error) {
	micros := make([]float64, calls)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	for range flight {
		group.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(calls) {
					return
				}
				start := time.Now()
				var out wrapperspb.BytesValue
				if err := client.Call(context.Background(), service, "Echo", in, &out); err != nil {
					failed.Store(&err)
					return
				}
				micros[i] = float64(time.Since(start).Nanoseconds()) / 1000
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	return micros, nil
}
