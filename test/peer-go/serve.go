package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const service = "kuasar.test.v1.Peer"

func serve(path string) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.RegisterService(service, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{"Echo": echo, "Describe": describe, "Fill": fill},
		Streams: map[string]ttrpc.Stream{
			"Sum":   {Handler: sum, StreamingClient: true},
			"Count": {Handler: count, StreamingServer: true},
			"Chat":  {Handler: chat, StreamingClient: true, StreamingServer: true},
		},
	})
	go func() {
		// The parent holds the other end: its death, however sudden, ends this process too.
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Println("ready")
	if err := server.Serve(context.Background(), listener); !errors.Is(err, ttrpc.ErrServerClosed) {
		return err
	}
	return nil
}

func echo(ctx context.Context, unmarshal func(any) error) (any, error) {
	var in wrapperspb.BytesValue
	if err := unmarshal(&in); err != nil {
		return nil, err
	}
	if err := command(ctx, string(in.Value)); err != nil {
		return nil, err
	}
	return &in, nil
}

// command does what an input asks for beside being echoed.
func command(ctx context.Context, input string) error {
	if text, ok := strings.CutPrefix(input, "status:"); ok {
		number, message, _ := strings.Cut(text, ":")
		code, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		st, err := status.New(codes.Code(code), message).WithDetails(wrapperspb.String("about " + message))
		if err != nil {
			return err
		}
		return st.Err()
	}
	if text, ok := strings.CutPrefix(input, "slow:"); ok {
		ms, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func describe(ctx context.Context, unmarshal func(any) error) (any, error) {
	var in wrapperspb.StringValue
	if err := unmarshal(&in); err != nil {
		return nil, err
	}
	var parts []string
	if metadata, ok := ttrpc.GetMetadata(ctx); ok {
		for key, values := range metadata {
			parts = append(parts, key+"="+strings.Join(values, ","))
		}
	}
	sort.Strings(parts)
	if deadline, ok := ctx.Deadline(); ok {
		parts = append(parts, fmt.Sprintf("deadline=%d", time.Until(deadline).Milliseconds()))
	}
	return wrapperspb.String(strings.Join(parts, ";")), nil
}

func fill(_ context.Context, unmarshal func(any) error) (any, error) {
	var in wrapperspb.UInt64Value
	if err := unmarshal(&in); err != nil {
		return nil, err
	}
	return wrapperspb.Bytes(make([]byte, in.Value)), nil
}

func sum(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	var total int64
	for {
		var in wrapperspb.Int64Value
		if err := stream.RecvMsg(&in); errors.Is(err, io.EOF) {
			return wrapperspb.Int64(total), nil
		} else if err != nil {
			return nil, err
		}
		total += in.Value
	}
}

func count(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	var in wrapperspb.Int64Value
	if err := stream.RecvMsg(&in); err != nil {
		return nil, err
	}
	last := max(in.Value, -in.Value)
	for i := int64(1); i <= last; i++ {
		if err := stream.SendMsg(wrapperspb.Int64(i)); err != nil {
			return nil, err
		}
	}
	if in.Value < 0 {
		return nil, status.Errorf(codes.Aborted, "counted to %d", last)
	}
	return nil, nil
}

func chat(ctx context.Context, stream ttrpc.StreamServer) (any, error) {
	for {
		var in wrapperspb.BytesValue
		if err := stream.RecvMsg(&in); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if err := command(ctx, string(in.Value)); err != nil {
			return nil, err
		}
		if err := stream.SendMsg(&in); err != nil {
			return nil, err
		}
	}
}
