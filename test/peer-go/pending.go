package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// pending has a call of each kind under way, says so, and does what its standard input says, a word a line:
//
//	cancel      cancels the context of them all, and sees each end here
//	echo        one more call
//	half-close  ends what the client sends
func pending(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	ended := make(chan error, 4)
	go func() {
		var out wrapperspb.BytesValue
		ended <- client.Call(ctx, service, "Echo", wrapperspb.Bytes(nil), &out)
	}()
	open := func(method string, in any, fromClient, fromServer bool) ttrpc.ClientStream {
		stream, openErr := client.NewStream(ctx, &ttrpc.StreamDesc{StreamingClient: fromClient, StreamingServer: fromServer}, service, method, in)
		err = errors.Join(err, openErr)
		return stream
	}
	count := open("Count", wrapperspb.Int64(1), false, true)
	sum := open("Sum", nil, true, false)
	chat := open("Chat", nil, true, true)
	if err != nil {
		return err
	}
	if err := errors.Join(
		sum.SendMsg(wrapperspb.Int64(5)),
		chat.SendMsg(wrapperspb.Bytes([]byte("hello"))),
		count.RecvMsg(&wrapperspb.Int64Value{}),
		chat.RecvMsg(&wrapperspb.BytesValue{}),
	); err != nil {
		return err
	}
	for _, stream := range []ttrpc.ClientStream{count, sum, chat} {
		go func() {
			var err error
			for err == nil {
				// Of the messages' kinds only this process's patience is of interest.
				err = stream.RecvMsg(&wrapperspb.BytesValue{})
			}
			ended <- err
		}()
	}

	fmt.Println("pending")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch word := lines.Text(); word {
		case "cancel":
			cancel()
			for range cap(ended) {
				if err := <-ended; !errors.Is(err, context.Canceled) {
					return fmt.Errorf("expected the end of the context, got %v", err)
				}
			}
		case "echo":
			err = checkEcho(client)
		case "half-close":
			err = errors.Join(sum.CloseSend(), chat.CloseSend())
		default:
			err = fmt.Errorf("%q is no word of this program", word)
		}
		if err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}
