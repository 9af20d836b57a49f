// peer is the Go end of the ttrpc interop tests and benchmark: containerd's own implementation, speaking the service
// of peer.proto over a unix socket.
//
//	peer serve SOCKET              serves; prints "ready"; ends when its standard input does
//	peer check SOCKET              calls a server every way there is; one line of JSON per check
//	peer pending SOCKET            has calls under way, and cancels or ends them as its standard input says
//	peer bench SOCKET FLIGHT CALLS times Echo with FLIGHT calls in flight; one line of JSON
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 2 && args[0] == "check":
		return check(args[1])
	case len(args) == 2 && args[0] == "pending":
		return pending(args[1])
	case len(args) == 4 && args[0] == "bench":
		flight, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		calls, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return bench(args[1], flight, calls)
	}
	return fmt.Errorf("usage: peer serve SOCKET | peer check SOCKET | peer pending SOCKET | peer bench SOCKET FLIGHT CALLS")
}
