package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// checkResult is one line of check's output; an empty error means the check passed.
type checkResult struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

type namedCheck struct {
	name string
	run  func(path string) error
}

// with runs a check on a connection of its own.
func with(run func(*ttrpc.Client) error) func(string) error {
	return func(path string) error {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		client := ttrpc.NewClient(conn)
		defer client.Close()
		return run(client)
	}
}

var checks = []namedCheck{
	{"echo", with(checkEcho)},
	{"an empty request and response", with(checkEmpty)},
	{"a status with UTF-8 and details", with(checkStatus)},
	{"an unknown service and an unknown method", with(checkUnknown)},
	{"metadata with a deadline", with(checkMetadata)},
	{"a deadline of 100 days", with(checkLongDeadline)},
	{"a deadline that passes, and one that had passed", with(checkDeadline)},
	{"4 MiB less 64 bytes each way", with(checkLarge)},
	{"an answer too large leaves the connection alive", with(checkOversizeAnswer)},
	{"2000 calls at once", with(checkMany)},
	{"client streaming", with(checkSum)},
	{"server streaming", with(checkCount)},
	{"server streaming that fails", with(checkCountFails)},
	{"bidirectional, with empty messages", with(checkChat)},
	{"a bidirectional stream ended by a status", with(checkChatFails)},
	{"an unread stream beside unary calls", with(checkUnread)},
	{"closing aborts what is pending", with(checkClose)},
}

func check(path string) error {
	out := json.NewEncoder(os.Stdout)
	for _, c := range checks {
		result := checkResult{Name: c.name}
		if err := c.run(path); err != nil {
			result.Error = err.Error()
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
	return nil
}

func callEcho(ctx context.Context, client *ttrpc.Client, in []byte) ([]byte, error) {
	var out wrapperspb.BytesValue
	err := client.Call(ctx, service, "Echo", wrapperspb.Bytes(in), &out)
	return out.Value, err
}

func expectCode(err error, code codes.Code) error {
	if status.Code(err) != code {
		return fmt.Errorf("expected %v, got %v", code, err)
	}
	return nil
}

func checkEcho(client *ttrpc.Client) error {
	out, err := callEcho(context.Background(), client, []byte("hello"))
	if err != nil {
		return err
	}
	if string(out) != "hello" {
		return fmt.Errorf("got %q", out)
	}
	return nil
}

func checkEmpty(client *ttrpc.Client) error {
	out, err := callEcho(context.Background(), client, nil)
	if err == nil && len(out) != 0 {
		return fmt.Errorf("got %q", out)
	}
	return err
}

func checkStatus(client *ttrpc.Client) error {
	_, err := callEcho(context.Background(), client, []byte("status:5:no such thing: ‘größe’ 🙂"))
	if err := expectCode(err, codes.NotFound); err != nil {
		return err
	}
	st := status.Convert(err)
	if st.Message() != "no such thing: ‘größe’ 🙂" {
		return fmt.Errorf("the message came as %q", st.Message())
	}
	details := st.Details()
	if len(details) != 1 {
		return fmt.Errorf("%d details", len(details))
	}
	detail, ok := details[0].(*wrapperspb.StringValue)
	if !ok || detail.Value != "about "+st.Message() {
		return fmt.Errorf("the detail came as %v", details[0])
	}
	return nil
}

func checkUnknown(client *ttrpc.Client) error {
	var out wrapperspb.BytesValue
	err := client.Call(context.Background(), "no.such.Service", "Echo", wrapperspb.Bytes(nil), &out)
	if err := expectCode(err, codes.Unimplemented); err != nil {
		return err
	}
	err = client.Call(context.Background(), service, "Nothing", wrapperspb.Bytes(nil), &out)
	return expectCode(err, codes.Unimplemented)
}

func callDescribe(ctx context.Context, client *ttrpc.Client) (string, error) {
	var out wrapperspb.StringValue
	err := client.Call(ctx, service, "Describe", wrapperspb.String("x"), &out)
	return out.Value, err
}

func checkMetadata(client *ttrpc.Client) error {
	metadata := ttrpc.MD{}
	metadata.Set("one", "1")
	metadata.Set("Many", "a", "b")
	ctx, cancel := context.WithTimeout(ttrpc.WithMetadata(context.Background(), metadata), time.Minute)
	defer cancel()
	out, err := callDescribe(ctx, client)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(out, "many=a,b;one=1;deadline=") {
		return fmt.Errorf("got %q", out)
	}
	return nil
}

func checkLongDeadline(client *ttrpc.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*24*time.Hour)
	defer cancel()
	out, err := callDescribe(ctx, client)
	if err != nil {
		return err
	}
	var ms int64
	if _, err := fmt.Sscanf(out, "deadline=%d", &ms); err != nil {
		return err
	}
	if left := time.Duration(ms) * time.Millisecond; left < 99*24*time.Hour || left > 100*24*time.Hour {
		return fmt.Errorf("%v left", left)
	}
	return nil
}

func checkDeadline(client *ttrpc.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := callEcho(ctx, client, []byte("slow:200")); !errors.Is(err, context.DeadlineExceeded) &&
		status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("expected the deadline, got %v", err)
	}
	// Past the deadline by our own clock too, so that what goes out is a negative timeout_nano.
	<-ctx.Done()
	if _, err := callEcho(ctx, client, []byte("x")); err == nil {
		return errors.New("a call past its deadline succeeded")
	}
	// The late answers are nobody's.
	return checkEcho(client)
}

func checkLarge(client *ttrpc.Client) error {
	in := bytes.Repeat([]byte("k"), 4<<20-64)
	out, err := callEcho(context.Background(), client, in)
	if err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return fmt.Errorf("%d bytes came back, not the same", len(out))
	}
	return nil
}

func checkOversizeAnswer(client *ttrpc.Client) error {
	var out wrapperspb.BytesValue
	err := client.Call(context.Background(), service, "Fill", wrapperspb.UInt64(4<<20), &out)
	if err := expectCode(err, codes.ResourceExhausted); err != nil {
		return err
	}
	return checkEcho(client)
}

func checkMany(client *ttrpc.Client) error {
	failed := make(chan error, 2000)
	var group sync.WaitGroup
	for i := range 2000 {
		group.Go(func() {
			in := fmt.Sprintf("call %d", i)
			out, err := callEcho(context.Background(), client, []byte(in))
			if err != nil {
				failed <- err
			} else if string(out) != in {
				failed <- fmt.Errorf("%q was answered with %q", in, out)
			}
		})
	}
	group.Wait()
	close(failed)
	return <-failed
}

func open(client *ttrpc.Client, method string, in any, fromClient, fromServer bool) (ttrpc.ClientStream, error) {
	desc := &ttrpc.StreamDesc{StreamingClient: fromClient, StreamingServer: fromServer}
	return client.NewStream(context.Background(), desc, service, method, in)
}

func checkSum(client *ttrpc.Client) error {
	stream, err := open(client, "Sum", nil, true, false)
	if err != nil {
		return err
	}
	// 0 is a message of no bytes.
	for _, value := range []int64{1, 2, 0, 3} {
		if err := stream.SendMsg(wrapperspb.Int64(value)); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var out wrapperspb.Int64Value
	if err := stream.RecvMsg(&out); err != nil {
		return err
	}
	if out.Value != 6 {
		return fmt.Errorf("got %d", out.Value)
	}
	return nil
}

// receiveCount reads 1, 2, … last and returns what ended the stream.
func receiveCount(stream ttrpc.ClientStream, last int64) error {
	for i := int64(1); ; i++ {
		var out wrapperspb.Int64Value
		if err := stream.RecvMsg(&out); err != nil {
			if i != last+1 {
				return fmt.Errorf("the stream ended before %d: %w", i, err)
			}
			return err
		}
		if out.Value != i {
			return fmt.Errorf("expected %d, got %d", i, out.Value)
		}
	}
}

func checkCount(client *ttrpc.Client) error {
	stream, err := open(client, "Count", wrapperspb.Int64(1000), false, true)
	if err != nil {
		return err
	}
	if err := receiveCount(stream, 1000); err != io.EOF {
		return fmt.Errorf("expected the end, got %w", err)
	}
	return nil
}

func checkCountFails(client *ttrpc.Client) error {
	stream, err := open(client, "Count", wrapperspb.Int64(-3), false, true)
	if err != nil {
		return err
	}
	return expectCode(receiveCount(stream, 3), codes.Aborted)
}

func checkChat(client *ttrpc.Client) error {
	stream, err := open(client, "Chat", nil, true, true)
	if err != nil {
		return err
	}
	for _, text := range []string{"one", "", "three", strings.Repeat("x", 100_000), ""} {
		in := wrapperspb.Bytes([]byte(text))
		if err := stream.SendMsg(in); err != nil {
			return err
		}
		var out wrapperspb.BytesValue
		if err := stream.RecvMsg(&out); err != nil {
			return err
		}
		if !proto.Equal(in, &out) {
			return fmt.Errorf("%d bytes were answered with %d others", len(in.Value), len(out.Value))
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != io.EOF {
		return fmt.Errorf("expected the end, got %v", err)
	}
	return nil
}

func checkChatFails(client *ttrpc.Client) error {
	stream, err := open(client, "Chat", nil, true, true)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(wrapperspb.Bytes([]byte("status:9:not now"))); err != nil {
		return err
	}
	return expectCode(stream.RecvMsg(&wrapperspb.BytesValue{}), codes.FailedPrecondition)
}

func checkUnread(client *ttrpc.Client) error {
	// As many as Go's own queue for a stream takes.
	if _, err := open(client, "Count", wrapperspb.Int64(40), false, true); err != nil {
		return err
	}
	for range 100 {
		if err := checkEcho(client); err != nil {
			return err
		}
	}
	return nil
}

func checkClose(client *ttrpc.Client) error {
	done := make(chan error, 1)
	go func() {
		_, err := callEcho(context.Background(), client, []byte("slow:60000"))
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	client.Close()
	select {
	case err := <-done:
		if !errors.Is(err, ttrpc.ErrClosed) {
			return fmt.Errorf("expected ErrClosed, got %v", err)
		}
		return nil
	case <-time.After(5 * time.Second):
		return errors.New("still pending after 5 s")
	}
}
