package odin_test

import (
	"context"
	"fmt"
	"log"
	"time"

	odin "github.com/odin-ws/odin/clients/go"
)

func Example() {
	ctx := context.Background()
	c, err := odin.Dial(ctx, "ws://127.0.0.1:8080/ws", odin.Options{
		OnGap: func(g odin.Gap) { log.Printf("missed %s after %d before %d: %s", g.Channel, g.After, g.Before, g.Why) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.Subscribe(ctx, odin.SubscribeOptions{
		Channels:  []string{"trade.*"},
		OnMessage: func(m odin.Message) { fmt.Println(m.Channel, m.Seq, string(m.Data)) },
	})
	if err != nil {
		log.Fatal(err)
	}
	<-c.Done()
}

// A screen that shows the newest quote, four times a second.
func ExampleClient_Subscribe_latest() {
	var c *odin.Client // of Dial
	_, _ = c.Subscribe(context.Background(), odin.SubscribeOptions{
		Channels:  []string{"quote.*"},
		Mode:      odin.Latest,
		Every:     250 * time.Millisecond,
		Snapshot:  true,
		OnMessage: func(m odin.Message) { fmt.Println(m.Channel, string(m.Data)) },
	})
}
