# A CPU image: docker build -t hone . && docker run -p 50051:50051 -v hone:/data hone
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p hone-daemon -p hone-client

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 hone && mkdir /data && chown hone /data
COPY --from=build /src/target/release/daemon /src/target/release/client /usr/local/bin/
USER hone
ENV HONE_LISTEN=0.0.0.0:50051 HONE_DATA_DIR=/data HF_HOME=/data/huggingface
VOLUME /data
EXPOSE 50051
HEALTHCHECK CMD ["client", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["daemon"]
