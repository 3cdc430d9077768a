// Command score scores images for a prompt: one on a call of its own, several on one stream.
//
//	score [-tls-ca FILE] TARGET PROMPT IMAGE...
//
// TARGET is 127.0.0.1:50051, or dns:///NAME:50051 for every address of a name. An API key is read from PCQA_API_KEY,
// deadlines, retries and load balancing from the file that -service-config names.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health" // healthCheckConfig of the service config does nothing without it
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "pcqa/v1"
)

const attempts = 5

// The longest that anybody waits for one image, whatever the service config says.
const patience = 30 * time.Second

// connect opens a connection to all of target's addresses: one for the life of the program.
func connect(target, ca, serviceConfig string) (*grpc.ClientConn, error) {
	config, err := os.ReadFile(serviceConfig)
	if err != nil {
		return nil, err
	}
	security := grpc.WithInsecure()
	if ca != "" {
		authorities, err := credentials.NewClientTLSFromFile(ca, "")
		if err != nil {
			return nil, err
		}
		security = grpc.WithTransportCredentials(authorities)
	}
	return grpc.Dial(target, security,
		grpc.WithDefaultServiceConfig(string(config)),
		// What is larger is not retried, and the default of 256 KiB is less than most images.
		grpc.WithDefaultCallOptions(grpc.MaxRetryRPCBufferSize(64<<20)))
}

// outgoing adds who calls, and a name for the call that the server's log and its answer repeat.
func outgoing(ctx context.Context) context.Context {
	var id [16]byte
	rand.Read(id[:])
	ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", fmt.Sprintf("%x", id))
	if key := os.Getenv("PCQA_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	return ctx
}

// scoreOne scores one image. The service config has its deadline and its retries; that is not enough in this version,
// which does not try again while no replica is known to be there. So the call waits for one, and not for ever.
func scoreOne(ctx context.Context, service pb.ScoringServiceClient, prompt, file string) (*pb.Score, error) {
	image, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request := &pb.ScoreImageRequest{Prompt: prompt, Image: image}
	answer, err := service.ScoreImage(outgoing(ctx), request, grpc.WaitForReady(true))
	return answer.GetScore(), err
}

// scoreMany hands every answer to take, as they come.
//
// A stream that has begun ends with its replica: what is unanswered then goes on the next one, until attempts of them in
// a row have brought nothing.
func scoreMany(ctx context.Context, service pb.ScoringServiceClient, prompt string, files []string,
	take func(file string, answer *pb.ScoreStreamResponse)) error {
	answered := map[string]bool{}
	for attempt := 1; len(answered) < len(files); {
		unanswered := map[string]string{}
		for index, file := range files {
			if id := strconv.Itoa(index); !answered[id] {
				unanswered[id] = file
			}
		}
		err := oneStream(ctx, service, prompt, unanswered, func(answer *pb.ScoreStreamResponse) {
			attempt = 1
			answered[answer.ItemId] = true
			take(unanswered[answer.ItemId], answer)
		})
		if err == nil {
			continue
		}
		if status.Code(err) != codes.Unavailable || attempt == attempts {
			return err
		}
		time.Sleep(100 * time.Millisecond << attempt)
		attempt++
	}
	return nil
}

// oneStream scores files, by their ids, on one call. Each is read when there is room for it and no sooner: Send waits.
func oneStream(ctx context.Context, service pb.ScoringServiceClient, prompt string, files map[string]string,
	take func(answer *pb.ScoreStreamResponse)) error {
	ctx, cancel := context.WithCancel(outgoing(ctx))
	defer cancel()
	stream, err := service.ScoreStream(ctx)
	if err != nil {
		return err
	}
	toSend := make(chan string, len(files))
	for id := range files {
		toSend <- id
	}
	unreadable := make(chan error, 1)
	go func() {
		for {
			select {
			case id := <-toSend:
				image, err := os.ReadFile(files[id])
				if err != nil {
					unreadable <- err
					cancel()
					return
				}
				media := &pb.ScoreStreamRequest_Image{Image: image}
				item := &pb.ScoreStreamRequest{ItemId: id, Prompt: prompt, Media: media, Priority: pb.Priority_PRIORITY_BULK}
				if stream.Send(item) != nil {
					return // Recv says why.
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	for left := len(files); left > 0; {
		answer, err := stream.Recv()
		if err != nil {
			select {
			case err = <-unreadable:
			default:
			}
			return err
		}
		if delay := answer.GetError().GetRetryDelay(); delay != nil {
			after := time.Duration(delay.Seconds)*time.Second + time.Duration(delay.Nanos)
			time.AfterFunc(after, func() { toSend <- answer.ItemId })
			continue
		}
		left--
		take(answer)
	}
	return nil
}

func run() error {
	ca := flag.String("tls-ca", "", "`FILE` of authorities, one of which signed the server's certificate")
	serviceConfig := flag.String("service-config", "deploy/clients/service-config.json", "`FILE` of the service config")
	flag.Parse()
	if flag.NArg() < 3 {
		return errors.New("usage: score [-tls-ca FILE] [-service-config FILE] TARGET PROMPT IMAGE...")
	}
	target, prompt, images := flag.Arg(0), flag.Arg(1), flag.Args()[2:]
	connection, err := connect(target, *ca, *serviceConfig)
	if err != nil {
		return err
	}
	defer connection.Close()
	service := pb.NewScoringServiceClient(connection)
	if len(images) == 1 {
		score, err := scoreOne(context.Background(), service, prompt, images[0])
		if err == nil {
			fmt.Printf("%.4f %s\n", score.Mos, images[0])
		}
		return err
	}
	failed := 0
	err = scoreMany(context.Background(), service, prompt, images, func(file string, answer *pb.ScoreStreamResponse) {
		if score := answer.GetScore(); score != nil {
			fmt.Printf("%.4f %s\n", score.Mos, file)
			return
		}
		failed++
		fmt.Fprintf(os.Stderr, "%s: %s\n", file, answer.GetError().Message)
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d images have no score", failed, len(images))
	}
	return err
}

func main() {
	if err := run(); err != nil {
		if found, ok := status.FromError(err); ok {
			err = fmt.Errorf("%s: %s", found.Code(), found.Message())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
